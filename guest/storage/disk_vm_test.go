//go:build vm

package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// layered makes a file system, since an overlay's upper layer may not be on another
// overlay, with directories in it that stand for what was mounted.
func layered(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "layers/part"), 0o755), os.Mkdir(filepath.Join(dir, "lower"), 0o755), os.MkdirAll(filepath.Join(dir, "disk"), 0o755), os.Mkdir(filepath.Join(dir, "outside"), 0o755),
		os.WriteFile(filepath.Join(dir, "lower/file"), []byte("lower"), 0o600), os.WriteFile(filepath.Join(dir, "layers/part/file"), []byte("part"), 0o600),
		os.Symlink("../outside", filepath.Join(dir, "disk/up")), os.Symlink(filepath.Join(dir, "outside"), filepath.Join(dir, "disk/absolute")),
		os.Symlink("upper", filepath.Join(dir, "disk/link")), os.WriteFile(filepath.Join(dir, "disk/file"), nil, 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMountOverlay(t *testing.T) {
	dir := layered(t)
	disk, target := filepath.Join(dir, "disk"), filepath.Join(dir, "target")
	err := makeDirectories(disk, []*protocol.StorageDirectory{
		{Path: "/upper", Mode: 0o755, Uid: 7, Gid: 8}, {Path: "work", Mode: 0o700}, {Path: "/upper", Mode: 0o700}, // is there
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(disk, "upper")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	place := func(name, path string) *protocol.StoragePlace {
		return &protocol.StoragePlace{MountPoint: filepath.Join(dir, name), Path: path}
	}
	request := func(upper string, lower ...*protocol.StoragePlace) *protocol.Storage {
		return &protocol.Storage{Driver: "overlay", MountPoint: target, Lower: lower, Upper: place("disk", upper), Work: place("disk", "/work")}
	}
	for _, upper := range []string{"/upper", "link"} {
		if err := Mount(t.Context(), request(upper, place("layers", "/part"), place("lower", ""))); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(filepath.Join(target, "file")); err != nil || string(text) != "part" {
			t.Errorf("the top of the lower layers has %q, %v", text, err)
		}
		if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(disk, "upper/new")); err != nil {
			t.Error(err)
		}
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
	}
	// What somebody has put there leads nowhere else.
	for upper, want := range map[string]error{
		"up": unix.ENOENT, "absolute": unix.ENOENT, "/../outside": unix.ENOENT, "file": unix.EINVAL, "/": unix.EINVAL, // the work directory is in it
	} {
		err := Mount(t.Context(), request(upper, place("lower", "")))
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", upper, err, want)
		}
		if err == nil {
			_ = Unmount(target)
		}
	}
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point is left: %v", err)
	}
	for path, want := range map[string]error{"up/x": unix.ENOENT, "absolute/x": unix.ENOENT, "up": unix.EEXIST, "no/parent": unix.ENOENT} {
		if err := makeDirectories(disk, []*protocol.StorageDirectory{{Path: path}}); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("make %s: %v, want %v", path, err, want)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "outside")); err != nil || len(left) > 0 {
		t.Errorf("outside is %v, %v", left, err)
	}
}

// A file system that the kernel lacks is named, and nothing is left of the attempt.
func TestMountUnknownFileSystem(t *testing.T) {
	target := filepath.Join(t.TempDir(), "target")
	err := makeAndMount("none", target, "no-such-type", 0, "")
	if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "no file system of this type") {
		t.Error(err)
	}
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point is left: %v", err)
	}
}
