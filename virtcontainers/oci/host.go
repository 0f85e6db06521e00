package oci

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// host is what mounts must know of the host's files.
type host interface {
	// Stat follows symbolic links.
	Stat(path string) (fs.FileInfo, error)
	// Resolve returns the path without symbolic links.
	Resolve(path string) (string, error)
	// Tmpfs describes the tmpfs that path is on, nil for another file system.
	Tmpfs(path string) (*tmpfs, error)
	// WritableBelow tells whether a mount below path, which has no symbolic
	// links, can be written to.
	WritableBelow(path string) (bool, error)
}

type realHost struct{}

func (realHost) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }

func (realHost) Resolve(path string) (string, error) { return filepath.EvalSymlinks(path) }

// tmpfs is a tmpfs of the host, seen at a path.
type tmpfs struct {
	size uint64 // in bytes; 0: unlimited
	// identity names what is at the path for good: the file system's own
	// random number, where the kernel has one, its device and the inode.
	identity string
	root     bool // the path is a mount point
	empty    bool // nothing is in the directory
	mode     uint32
	uid, gid uint32
}

func (realHost) Tmpfs(path string) (*tmpfs, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return nil, nil
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	var at, above unix.Stat_t
	if err := unix.Stat(path, &at); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	parent := filepath.Dir(path)
	if err := unix.Stat(parent, &above); err != nil {
		return nil, &os.PathError{Op: "stat", Path: parent, Err: err}
	}
	empty, err := isEmpty(path)
	if err != nil {
		return nil, err
	}
	return &tmpfs{
		empty:    empty,
		size:     fs.Blocks * uint64(fs.Bsize),
		identity: fmt.Sprintf("%08x%08x-%x-%x", uint32(fs.Fsid.Val[0]), uint32(fs.Fsid.Val[1]), at.Dev, at.Ino),
		root:     at.Dev != above.Dev,
		mode:     at.Mode & 0o7777, uid: at.Uid, gid: at.Gid,
	}, nil
}

// isEmpty tells whether a directory has no entries. What is no directory is not
// empty.
func isEmpty(path string) (bool, error) {
	dir, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	_, err = dir.ReadDir(1)
	switch {
	case errors.Is(err, io.EOF):
		return true, nil
	case errors.Is(err, unix.ENOTDIR):
		return false, nil
	default:
		return false, err
	}
}

func (realHost) WritableBelow(path string) (bool, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	return writableBelow(string(data), path), nil
}

// writableBelow looks for a mount below path in a mountinfo (proc(5)) that is
// not read-only.
func writableBelow(mountinfo, path string) bool {
	escapes := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			continue
		}
		at := escapes.Replace(fields[4])
		if at != path && (path == "/" || below(path, at)) && !slices.Contains(strings.Split(fields[5], ","), "ro") {
			return true
		}
	}
	return false
}
