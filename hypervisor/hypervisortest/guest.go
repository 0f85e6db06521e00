package hypervisortest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// BuildGuest compiles the suite's guest into an initrd and returns its path. It
// needs the go command and no kernel modules: the kernel must have virtio over
// PCI, virtio-vsock and virtio-console built in.
func BuildGuest(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "guest")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w",
		"-o", program, "kata-runtime/hypervisor/hypervisortest/internal/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	init, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initrd")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	writer := cpio.Newc.Writer(file)
	err = cpio.WriteRecords(writer, []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(init), 0o755),
	})
	if err = errors.Join(err, cpio.WriteTrailer(writer), file.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
