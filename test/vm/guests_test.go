//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// The kinds of images that guests boot from. distribution is a Debian with the agent on
// top, as erofs.
const (
	initrdImage  = "initrd"
	erofsImage   = "erofs"
	ext4Image    = "ext4"
	distribution = "distribution"
)

// guestKernels are the profiles of kernel-config, of which only the first is built for
// every run of the tests, and Debian's.
func guestKernels() []string {
	if os.Getenv(manyVariable) == "" {
		return []string{"default", "debian"}
	}
	return []string{"default", "debian", "minimal", "lsm", "debug"}
}

// guestImages are what guests of a kernel boot from. What other tests boot all the time
// is left to them: default with an initrd (all of them), erofs and ext4 (TestDiskImages),
// Debian's with an initrd (TestDebiansKernel).
func guestImages(kernel string) []string {
	switch {
	case os.Getenv(manyVariable) != "":
		return []string{initrdImage, erofsImage, ext4Image, distribution}
	case kernel == "default":
		return []string{distribution}
	default:
		return []string{erofsImage}
	}
}

// TestGuests boots each kernel from each kind of image. Debian's has what a disk image
// takes as modules: an initrd has them, and mounts it.
func TestGuests(t *testing.T) {
	h := harness.New(t)
	builder := newImageBuilder(h)
	for _, kernel := range guestKernels() {
		for _, kind := range guestImages(kernel) {
			t.Run(kernel+"/"+kind, func(t *testing.T) {
				guest := builder.settings(kernel, kind)
				h.Flags = nil
				configure(h, guest...)
				bootGuest(t, h, kernel, kind)
			})
		}
	}
	// Of an image that somebody has changed, nothing is read: not where the kernel mounts
	// it, and not where the initrd does.
	h.Flags = nil
	configure(h, builder.settings("debian", erofsImage)...)
	tamper(t, builder.images[erofsImage], 2000) // beside the superblock
	wantFailure(h, []string{"start agent", "data block 0 is corrupted", "Kernel panic - not syncing: dm-verity device corrupted"},
		"run", "-b", h.Bundle(bundle.Spec("/bin/true")), h.ID())
}

// tamper changes one byte of a file.
func tamper(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	old := make([]byte, 1)
	if _, err := file.ReadAt(old, at); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte{^old[0]}, at); err != nil {
		t.Fatal(err)
	}
}

// bootGuest runs a container, and looks at it and at its guest.
func bootGuest(t *testing.T, h *harness.Host, kernel, kind string) {
	t.Helper()
	id := h.ID()
	silently(h, "run", "-d", "-b", h.Bundle(bundle.Spec("/bin/sleep", "100000")), id)
	release := h.Must("exec", id, "/bin/uname", "-r")
	if debian := strings.HasSuffix(release, "-cloud-amd64\n"); debian != (kernel == "debian") {
		t.Errorf("the kernel is %s", release)
	}
	// Two processes of the container, each with the agent's program in its way.
	if got := h.Must("exec", id, "/bin/sh", "-c", "echo $$; cat /proc/1/comm"); !strings.HasSuffix(got, "\nsleep\n") {
		t.Errorf("in the container: %q", got)
	}
	result := execGuestShell(h, id, `$B cat /proc/self/mounts; $B touch /x; $B touch /run/x /tmp/x && echo written; $B cat /etc/debian_version`)
	root := map[string]string{initrdImage: "tmpfs", erofsImage: "erofs", ext4Image: "ext4", distribution: "erofs"}[kind]
	if !strings.Contains(result.Stdout, " / "+root+" r") || !strings.Contains(result.Stdout, "written\n") {
		t.Errorf("the guest's root file system is no %s: %s", root, result.Stdout)
	}
	if readOnly := strings.Contains(result.Stderr, "touch: /x: Read-only file system"); readOnly != (kind != initrdImage) {
		t.Errorf("writing to the image: %s", result.Stderr)
	}
	if kind == distribution {
		if got := h.Must("exec", "--guest", id, "/usr/bin/dpkg", "--print-architecture"); got != "amd64\n" {
			t.Errorf("a program of the distribution in the guest: %q", got)
		}
	}
	h.Must("delete", "--force", id)
}

// imageBuilder makes images as they are wanted.
type imageBuilder struct {
	h       *harness.Host
	program string
	images  map[string]string
}

func newImageBuilder(h *harness.Host) *imageBuilder {
	h.T.Helper()
	b := &imageBuilder{h: h, program: h.File("rootfs-builder"), images: map[string]string{}}
	if err := program.Build(h.T.Context(), b.program, "kata-runtime/rootfs-builder"); err != nil {
		h.T.Fatal(err)
	}
	return b
}

// settings are those of a configuration for a kernel and a kind of image.
func (b *imageBuilder) settings(kernel, kind string) []string {
	b.h.T.Helper()
	share := filepath.Join(harness.Repository(b.h.T), "share", "kata-containers")
	path, initrd := filepath.Join(share, kernel, "vmlinux"), filepath.Join(share, "initrd.img")
	switch kernel {
	case "default":
		path = filepath.Join(share, "vmlinux")
	case "debian":
		path, initrd = filepath.Join(share, kernel, "vmlinuz"), filepath.Join(share, kernel, "initrd.img")
	}
	if _, err := os.Stat(path); err != nil {
		b.h.T.Fatalf("%v (make kernel-profiles makes it)", err)
	}
	settings := []string{fmt.Sprintf("hypervisor.kernel = %q", path), "agent.kata.debug_console_enabled = true"}
	if kind == initrdImage {
		return append(settings, fmt.Sprintf("hypervisor.initrd = %q", initrd))
	}
	settings = append(settings, fmt.Sprintf("hypervisor.image = %q", b.image(kind)))
	if kernel == "debian" {
		settings = append(settings, fmt.Sprintf("hypervisor.initrd = %q", b.loader(filepath.Join(share, kernel, "modules"))))
	}
	return settings
}

// image makes a disk image.
func (b *imageBuilder) image(kind string) string {
	b.h.T.Helper()
	switch kind {
	case distribution:
		archive := filepath.Join(harness.Repository(b.h.T), "build", "systemd.tar")
		if _, err := os.Stat(archive); err != nil {
			b.h.T.Fatalf("%v (make systemd makes it)", err)
		}
		return b.make(kind, ".img", "-type", erofsImage, "-tar", archive)
	default:
		return b.make(kind, ".img", "-type", kind)
	}
}

// loader makes an initrd that mounts a disk image.
func (b *imageBuilder) loader(modules string) string {
	b.h.T.Helper()
	return b.make("loader", ".initrd", "-disk", "-modules", modules)
}

func (b *imageBuilder) make(name, suffix string, args ...string) string {
	b.h.T.Helper()
	if path, made := b.images[name]; made {
		return path
	}
	path := b.h.File(name + suffix)
	args = slices.Concat([]string{"-agent", filepath.Join(harness.Repository(b.h.T), "bin", "kata-agent"), "-o", path}, args)
	if out, err := exec.CommandContext(b.h.T.Context(), b.program, args...).CombinedOutput(); err != nil {
		b.h.T.Fatalf("build the image %s: %v\n%s", name, err, out)
	}
	b.images[name] = path
	return path
}
