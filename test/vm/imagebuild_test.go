//go:build vm

package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"kata-runtime/test/harness"
)

// nobody is a user without any rights of his own.
const nobody = 65534

// TestAnyoneBuildsImages builds images of every kind as root, and as a user without any
// rights, at another place and time: they are the same.
func TestAnyoneBuildsImages(t *testing.T) {
	h := harness.New(t)
	b := newImageBuilder(h)
	repository := harness.Repository(t)
	place := t.TempDir()
	if err := os.Chmod(filepath.Dir(place), 0o755); err != nil { //nolint:gosec // Anyone may enter.
		t.Fatal(err)
	}
	theirs := filepath.Join(place, "theirs")
	inputs := map[string]string{
		"rootfs-builder": b.program, "kata-agent": filepath.Join(repository, "bin", "kata-agent"),
		"root.tar": filepath.Join(repository, "build", "systemd.tar"),
	}
	for name, path := range inputs {
		inputs[name] = filepath.Join(place, name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v (make build systemd)", err)
		}
		if err := os.WriteFile(inputs[name], content, 0o755); err != nil { //nolint:gosec // A program.
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"initrd.img": nil, "erofs.img": {"-type", erofsImage}, "ext4.img": {"-type", ext4Image},
		"distribution.img": {"-type", erofsImage, "-tar", inputs["root.tar"]},
	} {
		for _, output := range []string{filepath.Join(place, name), filepath.Join(theirs, name)} {
			flags := slices.Concat([]string{"-agent", inputs["kata-agent"], "-o", output, "-sbom", output + ".spdx.json"}, args)
			command := exec.CommandContext(t.Context(), inputs["rootfs-builder"], flags...)
			command.Dir = filepath.Dir(output)
			if command.Dir == theirs {
				command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
				command.Env = []string{"PATH=" + os.Getenv("PATH"), "TZ=Asia/Tokyo", "TMPDIR=" + theirs}
			}
			if out, err := command.CombinedOutput(); err != nil {
				t.Fatalf("build %s: %v\n%s", output, err, out)
			}
		}
		for _, file := range []string{name, name + ".spdx.json"} {
			if !sameContent(t, filepath.Join(place, file), filepath.Join(theirs, file)) {
				t.Errorf("%s is another one, built by another user at another place", file)
			}
		}
	}
}

func sameContent(t *testing.T, one, two string) bool {
	t.Helper()
	a, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(two)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(a, b)
}
