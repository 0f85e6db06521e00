package oci

import (
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fakeHost has the files that it lists.
type fakeHost struct {
	files map[string]fakeFile
	links map[string]string
	tmpfs map[string]tmpfs
	parts map[string]volumePart
	below map[string]bool // what can be written is mounted below it
}

func (h fakeHost) VolumePart(path string) (volumePart, error) { return h.parts[path], nil }

func (h fakeHost) WritableBelow(path string) (bool, error) { return h.below[path], nil }

type fakeFile struct {
	mode fs.FileMode
	rdev uint64
}

func (f fakeFile) Name() string       { return "" }
func (f fakeFile) Size() int64        { return 0 }
func (f fakeFile) Mode() fs.FileMode  { return f.mode }
func (f fakeFile) ModTime() time.Time { return time.Time{} }
func (f fakeFile) IsDir() bool        { return f.mode.IsDir() }
func (f fakeFile) Sys() any           { return &syscall.Stat_t{Rdev: f.rdev} }

func (h fakeHost) Stat(path string) (fs.FileInfo, error) {
	file, ok := h.files[path]
	if !ok {
		return nil, &os.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
	}
	return file, nil
}

func (h fakeHost) Resolve(path string) (string, error) {
	if target, ok := h.links[path]; ok {
		path = target
	}
	if _, err := h.Stat(path); err != nil {
		return "", err
	}
	return path, nil
}

func (h fakeHost) Empty(dir string) (bool, error) {
	file, err := h.Stat(dir)
	if err != nil {
		return false, err
	}
	for path := range h.files {
		if path != dir && below(dir, path) {
			return false, nil
		}
	}
	return file.IsDir(), nil
}

func (h fakeHost) Tmpfs(path string) (*tmpfs, error) {
	if _, err := h.Stat(path); err != nil {
		return nil, err
	}
	if fs, ok := h.tmpfs[path]; ok {
		return &fs, nil
	}
	return nil, nil
}

func testHost() fakeHost {
	dir := fakeFile{mode: fs.ModeDir}
	char := func(major, minor uint32) fakeFile {
		return fakeFile{mode: fs.ModeDevice | fs.ModeCharDevice, rdev: unix.Mkdev(major, minor)}
	}
	return fakeHost{
		files: map[string]fakeFile{
			"/data": dir, "/bundle/etc/hosts": {}, "/x": dir,
			"/proc": dir, "/proc/1/root": dir, "/proc/meminfo": {}, "/sys": dir, "/sys/fs/cgroup": dir, "/sys/firmware": dir,
			"/dev": dir, "/dev/shm": dir, "/dev/shm/data": dir, "/dev/pts": dir, "/dev/dri": dir, "/dev/file": {},
			"/dev/null": char(1, 3), "/dev/kvm": char(10, 232), "/var/null": char(1, 3),
			"/dev/sda": {mode: fs.ModeDevice, rdev: unix.Mkdev(8, 0)}, "/dev/loop3": {mode: fs.ModeDevice, rdev: unix.Mkdev(7, 3)}, "/run/log": {mode: fs.ModeSocket},
			"/pod/shm": dir, "/user/memory": dir, "/link/shm": dir, subPathsDir + "/memory/c/0": dir, subPathsDir + "/memory/c/1": dir, subPathsDir + "/claim/c/0": dir,
			"/nested": dir, memoryDir: dir, diskDir: dir, ramDiskDir: dir, memoryDir + "/sub": dir,
		},
		parts: map[string]volumePart{subPathsDir + "/memory/c/0": {memoryDir, "/sub/x"}, subPathsDir + "/memory/c/1": {memoryDir, "/"}},
		below: map[string]bool{"/nested": true},
		links: map[string]string{"/link-to-nested": "/nested", "/link/shm": "/dev/shm", "/link-to-sys": "/sys/firmware", "/dev/log": "/run/log", "/proc/self/root": "/proc/1/root"},
		tmpfs: map[string]tmpfs{
			"/pod/shm":         {size: 64 << 20, identity: "a", root: true, mode: 0o1777, empty: true},
			"/link/shm":        {size: 1 << 30, identity: "b", root: true, mode: 0o1777},
			"/user/memory":     {size: 1 << 20, identity: "f", root: true, mode: 0o755},
			"/dev/shm":         {size: 1 << 30, identity: "b", root: true, mode: 0o1777},
			memoryDir:          {size: 32 << 20, identity: "c", root: true, mode: 0o2777, gid: 2000},
			memoryDir + "/sub": {size: 32 << 20, identity: "d"},
			ramDiskDir:         {size: 1 << 30, identity: "e"}, // of a host whose /var is a tmpfs
		},
	}
}
