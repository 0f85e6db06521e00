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
	// Empty tells whether path is a directory without entries.
	Empty(path string) (bool, error)
	// Tmpfs describes the tmpfs that path is on, nil for another file system.
	Tmpfs(path string) (*tmpfs, error)
	// WritableBelow tells whether a mount below path, which has no symbolic
	// links, can be written to.
	WritableBelow(path string) (bool, error)
	// VolumePart finds the emptyDir volume on a file system of its own that a
	// mount point, a path without symbolic links, shows a part of.
	VolumePart(path string) (volumePart, error)
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

// ownMounts are the calling thread's: it may be in another mount namespace than its
// process (namespace.InCopyOfMounts).
const ownMounts = "/proc/thread-self/mountinfo"

func (realHost) WritableBelow(path string) (bool, error) {
	data, err := os.ReadFile(ownMounts)
	if err != nil {
		return false, err
	}
	return writableBelow(string(data), path), nil
}

// mountPoint is what a line of mountinfo (proc(5)) says.
type mountPoint struct{ device, root, at, options string }

func parseMountInfo(mountinfo string) []mountPoint {
	escapes := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var all []mountPoint
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) >= 6 {
			all = append(all, mountPoint{fields[2], escapes.Replace(fields[3]), escapes.Replace(fields[4]), fields[5]})
		}
	}
	return all
}

// writableBelow looks for a mount below path that is not read-only.
func writableBelow(mountinfo, path string) bool {
	return slices.ContainsFunc(parseMountInfo(mountinfo), func(m mountPoint) bool {
		inside := m.at != path && (path == "/" || below(path, m.at))
		return inside && !slices.Contains(strings.Split(m.options, ","), "ro")
	})
}

// volumePart is a part of an emptyDir volume.
type volumePart struct {
	volume string // the volume's path; empty for none
	path   string // in the volume
}

func (realHost) VolumePart(path string) (volumePart, error) {
	data, err := os.ReadFile(ownMounts)
	if err != nil {
		return volumePart{}, err
	}
	return volumePartAt(string(data), path), nil
}

func volumePartAt(mountinfo, path string) volumePart {
	mounts := parseMountInfo(mountinfo)
	var part *mountPoint
	for i := range mounts {
		if mounts[i].at == path {
			part = &mounts[i] // of several, the last covers the others
		}
	}
	if part == nil {
		return volumePart{}
	}
	for _, m := range mounts {
		if m.device == part.device && m.root == "/" && isEmptyDir(m.at) {
			return volumePart{volume: m.at, path: part.root}
		}
	}
	return volumePart{}
}
