package oci

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// host is what mounts must know of the host's files.
type host interface {
	// Stat follows symbolic links.
	Stat(path string) (fs.FileInfo, error)
	// Resolve returns the path without symbolic links.
	Resolve(path string) (string, error)
	// Empty tells whether path is a directory without entries.
	Empty(path string) (bool, error)
	// Tmpfs describes the tmpfs that path is on, nil for another file system.
	Tmpfs(path string) (*tmpfs, error)
}

type realHost struct{}

func (realHost) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }

func (realHost) Resolve(path string) (string, error) { return filepath.EvalSymlinks(path) }

func (realHost) Empty(path string) (_ bool, err error) {
	directory, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	info, err := directory.Stat()
	if err != nil || !info.IsDir() {
		return false, err
	}
	switch _, err := directory.Readdirnames(1); {
	case errors.Is(err, io.EOF):
		return true, nil
	default:
		return false, err
	}
}

// tmpfs is a tmpfs of the host, seen at a path.
type tmpfs struct {
	size uint64 // in bytes; 0: unlimited
	// identity names what is at the path for good: the file system's own
	// random number, where the kernel has one, its device and the inode.
	identity string
	root     bool // the path is a mount point
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
	return &tmpfs{
		size:     fs.Blocks * uint64(fs.Bsize),
		identity: fmt.Sprintf("%08x%08x-%x-%x", uint32(fs.Fsid.Val[0]), uint32(fs.Fsid.Val[1]), at.Dev, at.Ino),
		root:     at.Dev != above.Dev,
		mode:     at.Mode & 0o7777, uid: at.Uid, gid: at.Gid,
	}, nil
}
