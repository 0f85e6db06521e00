package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lock waits until no other Lock of this container is held, by this or any
// other process, and takes it. The lock ends with unlock, which may be called
// more than once, or with the process. A container that is removed, before or
// while one waits, is virtcontainers.ErrNotFound, also when its id was taken again. Save,
// Update and Remove need no Lock and do not wait for one.
func (e *Entry) Lock(ctx context.Context) (unlock func(), err error) {
	for {
		file, err := e.openLock()
		if err != nil {
			return nil, err
		}
		if err := flockContext(ctx, file); err != nil {
			return nil, fmt.Errorf("lock container %s: %w", e.id, err)
		}
		valid, err := e.lockIsValid(file)
		if valid {
			return sync.OnceFunc(func() { release(file) }), nil
		}
		release(file)
		if err != nil {
			return nil, err
		}
	}
}

// lockIsValid tells whether a locked file is still the container's lock file.
// An error says that the container is gone.
func (e *Entry) lockIsValid(file *os.File) (bool, error) {
	if err := e.exists(); err != nil {
		return false, err
	}
	held, err := file.Stat()
	if err != nil {
		return false, fmt.Errorf("lock container %s: %w", e.id, err)
	}
	named, err := os.Lstat(e.Path(lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock container %s: %w", e.id, err)
	}
	return os.SameFile(held, named), nil
}

// openLock opens the lock file. It makes a missing one, which an interrupted
// Remove leaves, only while the container is known to exist: otherwise it would
// put the file into a directory that is being removed.
func (e *Entry) openLock() (*os.File, error) {
	path := e.Path(lockName)
	for {
		// An old incarnation's entry would wait for the new one's lock.
		if err := e.exists(); err != nil {
			return nil, err
		}
		file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lock container %s: %w", e.id, err)
		}
		err = e.exclusively("make the lock", func() error {
			if err := e.exists(); err != nil {
				return err
			}
			return makeFile(path)
		})
		if err != nil {
			return nil, err
		}
	}
}

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
