package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// flockContext locks file, or closes it and returns an error. The kernel offers
// no way to abandon a flock in progress: when ctx ends first, the goroutine
// that waits is left to it, and gives the lock back as soon as it gets it.
func flockContext(ctx context.Context, file *os.File) error {
	if err := ctx.Err(); err != nil {
		return errors.Join(err, file.Close())
	}
	err := flock(file, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return errors.Join(err, file.Close())
	}
	locked := make(chan error, 1)
	go func() { locked <- flock(file, unix.LOCK_EX) }()
	select {
	case err := <-locked:
		if err != nil {
			return errors.Join(err, file.Close())
		}
		return nil
	case <-ctx.Done():
		go func() {
			if err := <-locked; err != nil {
				_ = file.Close()
				return
			}
			release(file)
		}()
		return ctx.Err()
	}
}

// lockPatience bounds the wait for a directory's lock, which is held for a few
// file operations.
const lockPatience = 30 * time.Second

// LockDirectory opens a directory and locks it, unless somebody else has the lock
// for longer than patience. Closing it unlocks. A directory that is not there, or
// not any more once the lock is taken, is fs.ErrNotExist.
func LockDirectory(ctx context.Context, path string, patience time.Duration) (*os.File, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	info, err := dir.Stat()
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not free after %v", patience))
	defer cancel()
	if err := flockContext(ctx, dir); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("lock %s: %w: %s has it", path, context.Cause(ctx), holder(info))
		}
		return nil, err
	}
	if err := stillNamed(dir, path); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// holder names the process that has the lock of a file, as far as the kernel tells.
func holder(info fs.FileInfo) string {
	const unknown = "a process that is not known"
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return unknown
	}
	data, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknown
	}
	for line := range strings.Lines(string(data)) {
		// "1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF", proc_locks(5);
		// those that wait have "->" after the number.
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], ":"+strconv.FormatUint(stat.Ino, 10)) {
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		if err != nil || pid <= 0 { // of another PID namespace
			return unknown
		}
		name, err := os.ReadFile("/proc/" + fields[4] + "/comm")
		if err != nil {
			return "process " + fields[4] + ", which has ended, or a child of it,"
		}
		return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name)))
	}
	return unknown
}

func stillNamed(dir *os.File, path string) error {
	held, err := dir.Stat()
	if err != nil {
		return err
	}
	named, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(held, named) {
		return &os.PathError{Op: "lock", Path: path, Err: fs.ErrNotExist}
	}
	return nil
}

func flock(file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return &os.PathError{Op: "flock", Path: file.Name(), Err: err}
			}
			return nil
		}
	}
}

// release unlocks and closes. Unlocking first matters: a child that was forked
// and has not called exec yet shares the open file. Neither step can fail in a
// way that leaves the lock held.
func release(file *os.File) {
	_ = flock(file, unix.LOCK_UN)
	_ = file.Close()
}
