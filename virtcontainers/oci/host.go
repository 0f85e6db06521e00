package oci

import (
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
	// TmpfsSize is the size in bytes of the tmpfs that path is on, 0 for
	// another file system.
	TmpfsSize(path string) (uint64, error)
}

type realHost struct{}

func (realHost) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }

func (realHost) Resolve(path string) (string, error) { return filepath.EvalSymlinks(path) }

func (realHost) TmpfsSize(path string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if stat.Type != unix.TMPFS_MAGIC {
		return 0, nil
	}
	return stat.Blocks * uint64(stat.Bsize), nil
}
