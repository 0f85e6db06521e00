package storage

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"
)

// DefaultFileLimit is how many files of its shares the guest may remember at
// once. A server that keeps a descriptor for each file that its guest knows
// stops at its own limit, 20,000 on many hosts; the rest is for files that are
// open.
const DefaultFileLimit = 16000

const (
	// fastestGrowth is the rate at which a guest can come to know new files,
	// in files per second: far above what any server delivers.
	fastestGrowth = 40000
	shortestDelay = 10 * time.Millisecond
)

// Limiter keeps the number of files that the guest remembers below a limit, by
// making the kernel forget those that are not in use. The kernel itself does so
// only when it lacks memory: 25,000 names fit into a few MB.
//
// Nothing in the kernel announces that its caches grow: the Limiter has to look.
// It reads one number from /proc, at an interval that gets shorter the closer
// the limit is: long enough to cost nothing when idle (a few reads per second),
// short enough that the limit cannot be passed between two looks. Its owner
// runs it only while there are containers.
type Limiter struct {
	log    *slog.Logger
	limit  int64
	count  func() (int64, error) // the kernel's names of files, of any kind
	forget func() error
}

// NewLimiter returns a Limiter for limit files; 0 means DefaultFileLimit.
func NewLimiter(log *slog.Logger, limit int64) *Limiter {
	if limit <= 0 {
		limit = DefaultFileLimit
	}
	return &Limiter{log: log, limit: limit, count: countNames, forget: forgetNames}
}

// Run limits until ctx ends. It gives up, with a log message, when the kernel
// does not have what it needs.
func (l *Limiter) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	// What was there when the shares were fresh is not theirs. A name is
	// counted for each file that is remembered, so that the growth is never
	// less than the number of files.
	base := int64(-1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		names, err := l.count()
		if err == nil && base >= 0 && names-base > l.limit/2 {
			if err = l.forget(); err == nil {
				// What is left is in use, or of other file systems.
				base, err = l.count()
				names = base
			}
		}
		if err != nil {
			l.log.Error("the number of remembered files is not limited any more", "error", err)
			return
		}
		if base < 0 || names < base {
			base = names
		}
		timer.Reset(lookAfter(l.limit - (names - base)))
	}
}

// lookAfter is when to look again, with room for so many more files.
func lookAfter(room int64) time.Duration {
	return max(shortestDelay, time.Duration(room)*time.Second/fastestGrowth)
}

// countNames returns the number of names in the kernel's cache.
func countNames() (int64, error) {
	const path = "/proc/sys/fs/dentry-state"
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("count cached names: %w", err)
	}
	fields := bytes.Fields(data)
	if len(fields) == 0 {
		return 0, fmt.Errorf("count cached names: %s is empty", path)
	}
	n, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("count cached names: %w", err)
	}
	return n, nil
}

// forgetNames drops the names that are not in use. A file of a share whose
// last name is dropped is forgotten at once, and its server told so; files of
// local file systems keep their contents in memory.
func forgetNames() error {
	// 2 drops names and inodes.
	if err := dropCaches("2"); err != nil {
		return fmt.Errorf("forget names: %w", err)
	}
	return nil
}
