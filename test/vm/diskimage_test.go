//go:build vm

package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/virtcontainers/rootimage"
)

// TestDiskImages boots guests from disk images: of each file system, two VMs from one
// file, and one that somebody has changed.
func TestDiskImages(t *testing.T) {
	h := harness.New(t)
	builder := newImageBuilder(h)
	images := map[string]string{"erofs": builder.image("erofs"), "ext4": builder.image("ext4")}
	for _, kind := range []string{"ext4", "erofs"} { // the last one goes on
		imageOnly(h, images[kind])
		id := h.ID()
		silently(h, "run", "-d", "-b", h.Bundle(bundle.Spec("/bin/sleep", "100000")), id)
		checkImageGuest(h, id, kind)
		if kind != "erofs" {
			h.Must("delete", "--force", id)
			continue
		}
		other := h.Must("run", "-b", h.Bundle(bundle.Spec("/bin/cat", "/proc/cmdline")), h.ID())
		if !strings.Contains(other, " verity 1 /dev/vda ") || !strings.Contains(other, " rootfstype=erofs ") {
			t.Errorf("the second VM's command line is %s", other)
		}
		h.Must("delete", "--force", id)
	}
	if text := h.Must("env"); !strings.Contains(text, fmt.Sprintf("image = %q", images["erofs"])) ||
		!strings.Contains(text, images["erofs"]+", erofs with dm-verity, root hash ") {
		t.Errorf("env: %s", text)
	}
	// Nobody looks at this byte, which is beside the superblock, but dm-verity.
	tamper(t, images["erofs"], 2000)
	wantFailure(h, []string{"boot kernel", "verity: 254:0: data block 0 is corrupted", "Kernel panic - not syncing: dm-verity device corrupted"},
		"run", "-b", h.Bundle(bundle.Spec("/bin/true")), h.ID())
	// Nor is a hash believed that is not what the hashes above it say, and the top of
	// them is what the manifest says, or nothing is started.
	imageOnly(h, images["ext4"])
	tamper(t, images["ext4"], hashOffset(t, images["ext4"])+2*4096)
	wantFailure(h, []string{"boot kernel", "is corrupted", "Kernel panic - not syncing: dm-verity device corrupted"},
		"run", "-b", h.Bundle(bundle.Spec("/bin/true")), h.ID())
	tamper(t, images["ext4"], hashOffset(t, images["ext4"])+4096)
	wantFailure(h, []string{"the image is not the one that its manifest describes: the root hash of its tree is "},
		"run", "-b", h.Bundle(bundle.Spec("/bin/true")), h.ID())
}

// TestTamperedInitrd boots nothing from an initrd that is not its manifest's, also where it
// was booted from before.
func TestTamperedInitrd(t *testing.T) {
	h := harness.New(t)
	built := builtAssets(t)
	initrd := filepath.Join(t.TempDir(), "initrd.img")
	manifest := rootimage.ManifestPath(initrd)
	for from, to := range map[string]string{built.initrd: initrd, rootimage.ManifestPath(built.initrd): manifest} {
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, content, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	configure(h, fmt.Sprintf("hypervisor.kernel = %q", built.kernel), fmt.Sprintf("hypervisor.initrd = %q", initrd))
	b := h.Bundle(bundle.Spec("/bin/true"))
	h.Must("run", "-b", b, h.ID())
	tamper(t, initrd, 2000)
	const mismatch = "the image is not the one that its manifest describes: its digest is "
	wantFailure(h, []string{initrd, mismatch, "remove " + manifest}, "run", "-b", b, h.ID())
	if result := h.Run("check"); result.Code == 0 || !strings.Contains(result.Stdout, mismatch) {
		t.Errorf("check: exit code %d: %s", result.Code, result.Stdout)
	}
}

// hashOffset is where an image's hashes begin, with a superblock that is followed by the
// top of them.
func hashOffset(t *testing.T, image string) int64 {
	t.Helper()
	text, err := os.ReadFile(strings.TrimSuffix(image, ".img") + ".manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Verity struct {
			HashOffset int64 `json:"hash_offset"`
		} `json:"verity"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil || manifest.Verity.HashOffset == 0 {
		t.Fatalf("%v: %s", err, text)
	}
	return manifest.Verity.HashOffset
}

// imageOnly lets the host's commands boot from a disk image.
func imageOnly(h *harness.Host, path string) {
	h.Flags = nil
	configure(h, fmt.Sprintf("hypervisor.kernel = %q", builtAssets(h.T).kernel), fmt.Sprintf("hypervisor.image = %q", path),
		"agent.kata.debug_console_enabled = true")
}

// checkImageGuest looks at a guest from within.
func checkImageGuest(h *harness.Host, id, kind string) {
	h.T.Helper()
	// Two processes of the container, each with the agent's program in its way.
	if got := h.Must("exec", id, "/bin/sh", "-c", "echo $$; cat /proc/1/comm"); !strings.HasSuffix(got, "\nsleep\n") {
		h.T.Errorf("in the container: %q", got)
	}
	result := execGuestShell(h, id, `$B cat /proc/self/mounts; $B touch /x; $B touch /run/x && echo run; $B touch /tmp/x && echo tmp`)
	for _, want := range []string{"/dev/root / " + kind + " ro,", "run\n", "tmp\n"} {
		if !strings.Contains(result.Stdout, want) {
			h.T.Errorf("the guest lacks %q: %s", want, result.Stdout)
		}
	}
	if !strings.Contains(result.Stderr, "Read-only file system") {
		h.T.Errorf("writing to the image: %s", result.Stderr)
	}
	result = execGuestShell(h, id, `for p in /proc/[0-9]*; do $B readlink $p/exe; done`)
	if !strings.Contains(result.Stdout, "/init\n") || strings.Contains(result.Stdout, "memfd:") {
		h.T.Errorf("programs of the guest: %s", result.Stdout)
	}
}

// execGuestShell runs a script in the guest itself, where $B is the container's busybox.
func execGuestShell(h *harness.Host, id, script string) harness.Result {
	h.T.Helper()
	for line := range strings.Lines(h.Must("ps", id)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/bin/sleep" {
			busybox := fmt.Sprintf("/proc/%s/root/bin/busybox", fields[1])
			return h.Run("exec", "--guest", "-e", "B="+busybox, id, busybox, "sh", "-c", script)
		}
	}
	h.T.Fatal("the container's process is not there")
	return harness.Result{}
}
