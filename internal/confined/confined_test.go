package confined_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/internal/confined"
)

// TestOpenOnABusySystem resolves a path with ".." while another directory's files
// are being renamed, which the kernel takes for a reason to give up.
func TestOpenOnABusySystem(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "run/secrets"), 0o755), os.Mkdir(filepath.Join(dir, "var"), 0o755),
		os.Symlink("../run", filepath.Join(dir, "var/run")), os.WriteFile(filepath.Join(other, "a"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	stop := make(chan struct{})
	var renaming sync.WaitGroup
	defer renaming.Wait()
	defer close(stop)
	renaming.Go(func() {
		from, to := filepath.Join(other, "a"), filepath.Join(other, "b")
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := os.Rename(from, to); err != nil {
				t.Error(err)
				return
			}
			from, to = to, from
		}
	})
	for range 10000 {
		file, err := confined.Open(root, "/var/run/secrets", 0)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
}

func TestOpenStaysInside(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "root/etc"), 0o755), os.WriteFile(filepath.Join(dir, "outside"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "root/etc/inside"), nil, 0o600),
		os.Symlink("../../outside", filepath.Join(dir, "root/etc/up")), os.Symlink("/etc/inside", filepath.Join(dir, "root/absolute")),
		os.Symlink("/proc/self/root", filepath.Join(dir, "root/magic")),
	); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenFile(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]error{
		"absolute": nil, "/etc/../../../etc/inside": nil,
		"etc/up": unix.ENOENT, "../outside": unix.ENOENT, "/outside": unix.ENOENT, "magic/outside": unix.ENOENT,
	} {
		file, err := confined.Open(root, name, unix.RESOLVE_NO_XDEV)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if err == nil {
			file.Close()
		}
	}
}
