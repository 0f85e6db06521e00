package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrTooLarge is wrapped by errors about content that does not fit in the
// guest's memory.
var ErrTooLarge = errors.New("the content does not fit in the guest's memory")

// CopyInto fills the empty directory to, a file system in memory, with what is
// in from: owners, modes, times, extended attributes, links, holes and special
// files included. It takes at most seven eighths of the guest's free memory.
// Attributes that the file system does not know are left out. Nobody else may
// be writing to to.
func CopyInto(ctx context.Context, from, to string) error {
	free, err := availableMemory()
	if err == nil {
		err = copyInto(ctx, from, to, free-free/8)
	}
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}

func copyInto(ctx context.Context, from, to string, budget int64) error {
	source, err := openDirectory(unix.AT_FDCWD, from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := openDirectory(unix.AT_FDCWD, to)
	if err != nil {
		return err
	}
	defer target.Close()
	c := &copier{budget: budget, target: target, links: map[inode]string{}, buffer: make([]byte, 1<<20)}
	if err := c.entries(ctx, source, target, "."); err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &stat); err != nil {
		return err
	}
	return c.attributes(source, ".", target, ".", &stat)
}

// availableMemory is what programs can have of the guest's memory.
func availableMemory() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo does not tell of the available memory")
}

type inode struct{ device, number uint64 }

// perFile is what a file takes of the memory besides its data, about.
const perFile = 1 << 10

type copier struct {
	budget int64 // of bytes
	target *os.File
	// links are the copies of files that have several names, below target.
	links  map[inode]string
	buffer []byte
}

func openDirectory(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// entries copies what is in a directory, which is below the root.
func (c *copier) entries(ctx context.Context, from, to *os.File, below string) error {
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.entry(ctx, from, to, name, path.Join(below, name)); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) entry(ctx context.Context, from, to *os.File, name, below string) error {
	if err := c.take(ctx, perFile); err != nil {
		return err
	}
	var stat unix.Stat_t
	err := unix.Fstatat(int(from.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) { // it has gone meanwhile
		return nil
	}
	if err == nil {
		err = c.file(ctx, from, to, name, below, &stat)
	}
	var named *fileError
	if err != nil && !errors.As(err, &named) {
		err = &fileError{below, err}
	}
	return err
}

// fileError says of which file an error is.
type fileError struct {
	name string
	err  error
}

func (e *fileError) Error() string { return e.name + ": " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

func (c *copier) file(ctx context.Context, from, to *os.File, name, below string, stat *unix.Stat_t) error {
	kind := stat.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && stat.Nlink > 1 {
		id := inode{stat.Dev, stat.Ino}
		if first, copied := c.links[id]; copied {
			return unix.Linkat(int(c.target.Fd()), first, int(to.Fd()), name, 0)
		}
		c.links[id] = below
	}
	var err error
	switch kind {
	case unix.S_IFDIR:
		err = c.directory(ctx, from, to, name, below)
	case unix.S_IFREG:
		err = c.regular(ctx, from, to, name)
	case unix.S_IFLNK:
		var target string
		if target, err = readlink(from, name); err == nil {
			err = unix.Symlinkat(target, int(to.Fd()), name)
		}
	default:
		err = unix.Mknodat(int(to.Fd()), name, stat.Mode, int(stat.Rdev))
	}
	if err != nil {
		return err
	}
	return c.attributes(from, name, to, name, stat)
}

func (c *copier) directory(ctx context.Context, from, to *os.File, name, below string) error {
	source, err := openDirectory(int(from.Fd()), name)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := unix.Mkdirat(int(to.Fd()), name, 0o700); err != nil {
		return err
	}
	target, err := openDirectory(int(to.Fd()), name)
	if err != nil {
		return err
	}
	defer target.Close()
	return c.entries(ctx, source, target, below)
}

func (c *copier) regular(ctx context.Context, from, to *os.File, name string) error {
	fd, err := unix.Openat(int(from.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	source := os.NewFile(uintptr(fd), name)
	defer source.Close()
	if fd, err = unix.Openat(int(to.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600); err != nil {
		return err
	}
	target := os.NewFile(uintptr(fd), name)
	defer target.Close()
	return c.data(ctx, source, target)
}

// data copies what is between the holes of a file.
func (c *copier) data(ctx context.Context, from, to *os.File) error {
	for at := int64(0); ; {
		start, err := from.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // what is left is a hole
		}
		if err != nil {
			return err
		}
		end, err := from.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := c.extent(ctx, from, to, start, end); err != nil {
			return err
		}
		at = end
	}
	size, err := from.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return to.Truncate(size)
}

func (c *copier) extent(ctx context.Context, from, to *os.File, at, end int64) error {
	for at < end {
		n, err := from.ReadAt(c.buffer[:min(int64(len(c.buffer)), end-at)], at)
		if n == 0 && errors.Is(err, io.EOF) {
			return nil // it has shrunk meanwhile
		}
		if n == 0 {
			return err
		}
		if err := c.take(ctx, int64(n)); err != nil {
			return err
		}
		if _, err := to.WriteAt(c.buffer[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// take takes from the budget, unless nobody waits any more.
func (c *copier) take(ctx context.Context, bytes int64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if c.budget -= bytes; c.budget < 0 {
		return fmt.Errorf("%w: take some of it away on the host, or give the pod more memory", ErrTooLarge)
	}
	return nil
}

// attributes copies what a file has besides its data. The order counts: a new
// owner takes privileges away, and every change sets a time.
func (c *copier) attributes(from *os.File, name string, to *os.File, newName string, stat *unix.Stat_t) error {
	at := int(to.Fd())
	if err := unix.Fchownat(at, newName, int(stat.Uid), int(stat.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set the owner: %w", err)
	}
	target := fmt.Sprintf("/proc/self/fd/%d/%s", at, newName)
	if stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(target, stat.Mode&0o7777); err != nil {
			return fmt.Errorf("set the mode: %w", err)
		}
	}
	if err := copyXattrs(fmt.Sprintf("/proc/self/fd/%d/%s", from.Fd(), name), target); err != nil {
		return err
	}
	times := []unix.Timespec{stat.Atim, stat.Mtim}
	if err := unix.UtimesNanoAt(at, newName, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set the times: %w", err)
	}
	return nil
}

func copyXattrs(from, to string) error {
	names, err := readGrowing(func(buffer []byte) (int, error) { return unix.Llistxattr(from, buffer) })
	if err != nil {
		return unlessUnsupported("list the attributes", err)
	}
	for name := range bytes.SplitSeq(names, []byte{0}) {
		if len(name) == 0 {
			continue
		}
		value, err := readGrowing(func(buffer []byte) (int, error) { return unix.Lgetxattr(from, string(name), buffer) })
		if err == nil {
			err = unix.Lsetxattr(to, string(name), value, 0)
		}
		if err := unlessUnsupported("attribute "+string(name), err); err != nil {
			return err
		}
	}
	return nil
}

// unlessUnsupported passes on an error that is not about an attribute which one
// of the file systems does not know.
func unlessUnsupported(what string, err error) error {
	if err == nil || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODATA) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// readGrowing calls read with a buffer that is large enough.
func readGrowing(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 2 {
		buffer := make([]byte, size)
		n, err := read(buffer)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		return buffer[:max(n, 0)], err
	}
}

func readlink(dir *os.File, name string) (string, error) {
	target, err := readGrowing(func(buffer []byte) (int, error) {
		n, err := unix.Readlinkat(int(dir.Fd()), name, buffer)
		if n == len(buffer) {
			err = unix.ERANGE // it may be longer
		}
		return n, err
	})
	return string(target), err
}
