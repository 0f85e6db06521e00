// Package cache keeps expensive results in a folder: each under a key of its
// own, made at most once, visible only when complete.
//
// A result is a directory. It is filled under a temporary name and renamed to
// its key, so that a reader never sees half of it, and a lock file per key
// makes a second process wait for the first instead of doing the work twice.
// The kernel releases the lock of a process that dies.
package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keyPattern is what a key may look like: one path component, not hidden.
var keyPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,200}$`)

// Get returns the directory of key below folder, and makes it first if it is
// not there: fill receives an empty directory to put the result into. A failed
// fill leaves nothing behind. While another process fills the same key, Get
// waits for it, until ctx ends. The folder is created as needed.
func Get(ctx context.Context, folder, key string, fill func(ctx context.Context, dir string) error) (dir string, err error) {
	if !keyPattern.MatchString(key) {
		return "", fmt.Errorf("cache key %q is not a plain file name", key)
	}
	dir = filepath.Join(folder, key)
	if complete(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("create the cache folder: %w", err)
	}
	unlock, err := Lock(ctx, filepath.Join(folder, key+".lock"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if complete(dir) {
		return dir, nil
	}
	return dir, fillAtomically(ctx, folder, key, fill)
}

// complete reports whether dir holds a result: the rename made it.
func complete(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

func fillAtomically(ctx context.Context, folder, key string, fill func(context.Context, string) error) (err error) {
	temporary, err := os.MkdirTemp(folder, "."+key+".*")
	if err != nil {
		return fmt.Errorf("create a directory in the cache: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temporary)) }()
	if err := os.Chmod(temporary, 0o755); err != nil {
		return fmt.Errorf("open the cache entry %s to readers: %w", key, err)
	}
	if err := fill(ctx, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(folder, key)); err != nil {
		return fmt.Errorf("publish the cache entry %s: %w", key, err)
	}
	return nil
}

// lockRetry is how often a waiter asks for a lock that another process has.
// flock(2) cannot be waited for together with a context, and the work behind
// the lock takes from seconds to minutes.
const lockRetry = 100 * time.Millisecond

// Lock takes the lock file at path, and waits for whoever has it, until ctx ends. The
// file stays: removing it would let two processes lock two different files of the
// same name.
func Lock(ctx context.Context, path string) (unlock func() error, err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return file.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the lock %s: %w", path, ctx.Err()), file.Close())
		case <-time.After(lockRetry):
		}
	}
}
