//go:build vm

package guesttest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const module = "../.." // the repository's root

// TestInsideTheGuest passes when every test inside passes.
func TestInsideTheGuest(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "inside")
	command(t, "go", "test", "-c", "-o", binary, "-trimpath", "-tags", "inguest seccomp netgo osusergo",
		"-ldflags", "-s -w -linkmode external -extldflags -static", "./guest/guesttest/inside")
	share := filepath.Join("share", "kata-containers", "debian")
	if _, err := os.Stat(filepath.Join(module, share, "vmlinuz")); err != nil {
		command(t, "go", "run", "./kernel-config", "debian", "-o", share)
	}
	image := filepath.Join(dir, "initrd.img")
	command(t, "go", "run", "./rootfs-builder", "-agent", binary, "-modules", filepath.Join(share, "modules"), "-o", image)
	disk := filepath.Join(dir, "rootfs.tar")
	packRoot(t, disk)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	vm := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "768", "-nodefaults",
		"-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(module, share, "vmlinuz"), "-initrd", image,
		"-append", "console=hvc0 quiet panic=-1 tsc=reliable no_timer_check "+os.Getenv("KATA_TEST_APPEND"),
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=con", "-device", "virtconsole,chardev=con",
		"-drive", "if=virtio,format=raw,file="+disk)
	var console bytes.Buffer
	vm.Stdout = io.MultiWriter(&console, os.Stdout)
	vm.Stderr = os.Stderr
	if err := vm.Run(); err != nil {
		t.Fatalf("QEMU: %v", err)
	}
	if !strings.Contains(console.String(), "guest tests: exit 0") {
		t.Fatal("the tests in the guest failed; the console is above")
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = module
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// packRoot writes a root file system with busybox as a tar archive, padded to
// whole sectors.
func packRoot(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(file)
	add := func(header *tar.Header, content []byte) {
		header.Size = int64(len(content))
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		add(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0::/root:/bin/sh\n"))
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	applets, err := exec.CommandContext(t.Context(), busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}, nil)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}
