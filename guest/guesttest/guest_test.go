//go:build vm

package guesttest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const module = "../.." // the repository's root

// TestInsideTheGuest passes when every test inside passes.
func TestInsideTheGuest(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "inside")
	command(t, "go", "test", "-c", "-o", binary, "-trimpath", "-tags", "inguest seccomp netgo osusergo runc_nocriu",
		"-ldflags", "-s -w -linkmode external -extldflags -static", "./guest/guesttest/inside")
	image := filepath.Join(dir, "initrd.img")
	kernel := buildImage(t, binary, image)
	disk := filepath.Join(dir, "rootfs.tar")
	packRoot(t, disk)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	socket := serveShare(ctx, t, dir)
	// A second CPU that is possible makes the emulator heed memory barriers,
	// which the shared file system needs; see package qemu.
	vm := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-smp", "1,maxcpus=2", "-m", "768", "-nodefaults",
		"-object", "memory-backend-memfd,id=mem,size=768M,share=on", "-numa", "node,memdev=mem",
		"-chardev", "socket,id=fs,path="+socket, "-device", "vhost-user-fs-pci,chardev=fs,tag=shared",
		"-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", kernel, "-initrd", image,
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

// buildImage makes an initrd with binary as /init and returns the kernel to boot
// it with: the one that KATA_TEST_KERNEL names, which needs no modules, or else
// Debian's.
func buildImage(t *testing.T, binary, image string) (kernel string) {
	t.Helper()
	if kernel = os.Getenv("KATA_TEST_KERNEL"); kernel != "" {
		command(t, "go", "run", "./rootfs-builder", "-agent", binary, "-o", image)
		return kernel
	}
	share := filepath.Join("share", "kata-containers", "debian")
	kernel = filepath.Join(module, share, "vmlinuz")
	if _, err := os.Stat(kernel); err != nil {
		command(t, "go", "run", "./kernel-config", "debian", "-o", share)
	}
	command(t, "go", "run", "./rootfs-builder", "-agent", binary, "-modules", filepath.Join(share, "modules"), "-o", image)
	return kernel
}

// manyFiles is more than a server can serve that keeps a descriptor for each
// of 20,000 files. The tests inside know the number.
const manyFiles = 25000

// serveShare serves a directory with many files to the guest, and returns the
// server's socket.
func serveShare(ctx context.Context, t *testing.T, dir string) string {
	t.Helper()
	shared := filepath.Join(dir, "shared")
	for i := range manyFiles {
		sub := filepath.Join(shared, "files", strconv.Itoa(i/500))
		if i%500 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, strconv.Itoa(i)), []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "fs.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	served := exec.CommandContext(ctx, "/usr/lib/qemu/virtiofsd", "--fd=3", "-o", "source="+shared,
		"-o", "xattr", "-o", "announce_submounts", "-o", "cache=auto", "--rlimit-nofile=20000")
	served.ExtraFiles = []*os.File{file}
	served.Stderr = os.Stderr
	if err := served.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = served.Process.Kill() // Fails when it ended with QEMU.
		_ = served.Wait()
		l.Close()
	})
	return socket
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
