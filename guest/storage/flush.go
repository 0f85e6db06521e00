package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Flush writes what the guest holds back of the file system that path is on.
// A path that is gone has nothing to flush.
func Flush(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("flush %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("flush %s: %w", path, err)
	}
	return nil
}

// FlushShares is Flush for directories that the host shares, and does nothing where the
// guest holds nothing back: it never does for long, unless the file server is one that
// lets it write later.
//
// syncfs(2) of a share reaches the host as such, which then writes to its disk all that
// anybody has written to the whole file system there: the end of a container would wait
// for what others have written.
func FlushShares(shares ...string) error {
	if !holdsBack("/proc") {
		return nil
	}
	var errs []error
	for _, share := range shares {
		errs = append(errs, Flush(share))
	}
	return errors.Join(errs...)
}

// holdsBack tells whether the guest has pages of files that are to be written, or are
// being written; it says so too when it cannot know. proc is where procfs is mounted.
func holdsBack(proc string) bool {
	// Each CPU counts for itself, and adds that to the sum now and then; reading this
	// makes all do so.
	if _, err := os.ReadFile(filepath.Join(proc, "sys/vm/stat_refresh")); err != nil {
		return true
	}
	counts, err := os.ReadFile(filepath.Join(proc, "vmstat"))
	if err != nil {
		return true
	}
	missing := map[string]bool{"nr_dirty": true, "nr_writeback": true}
	for line := range strings.Lines(string(counts)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "nr_dirty", "nr_writeback", "nr_writeback_temp": // the last is FUSE's alone
			if pages, err := strconv.ParseUint(value, 10, 64); err != nil || pages > 0 {
				return true
			}
			delete(missing, name)
		}
	}
	return len(missing) > 0
}
