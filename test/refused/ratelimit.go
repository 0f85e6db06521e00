package refused

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// rateLimit is the sysctl that makes the kernel leave out records.
const rateLimit = "/proc/sys/kernel/printk_ratelimit"

// lifted is a limit that is lifted as long as anybody wants that: tests of several
// packages run at a time, and only the last to end sets it back.
type lifted struct {
	sysctl string
	// shared is locked by all who want it, and holds what the limit was.
	shared *os.File
}

// lift lifts the limit in the file sysctl until restore is called. By the file shared
// those who want it know of each other.
func lift(sysctl, shared string) (*lifted, error) {
	file, err := os.OpenFile(shared, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lift a limit: %w", err)
	}
	l := &lifted{sysctl: sysctl, shared: file}
	for {
		alone := l.lock(unix.LOCK_EX|unix.LOCK_NB) == nil
		limit, err := os.ReadFile(sysctl)
		if err == nil && alone && !isLifted(limit) {
			// Kept first: whoever is killed with the limit lifted leaves it to the next.
			if err = l.keep(limit); err == nil {
				limit = []byte("0")
				err = os.WriteFile(sysctl, limit, 0)
			}
		}
		if err == nil {
			err = l.lock(unix.LOCK_SH)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lift a limit: %w", err), file.Close())
		}
		// Otherwise the last one has set it back in between.
		if limit, err = os.ReadFile(sysctl); err == nil && isLifted(limit) {
			return l, nil
		}
	}
}

func isLifted(limit []byte) bool { return string(bytes.TrimSpace(limit)) == "0" }

func (l *lifted) lock(how int) error {
	for {
		if err := unix.Flock(int(l.shared.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (l *lifted) keep(limit []byte) error {
	if err := l.shared.Truncate(0); err != nil {
		return err
	}
	_, err := l.shared.WriteAt(limit, 0)
	return err
}

// restore sets the limit back if nobody else wants it lifted.
func (l *lifted) restore() error {
	defer l.shared.Close()
	if l.lock(unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	limit, err := os.ReadFile(l.shared.Name())
	if err == nil && len(limit) > 0 { // it had no limit before
		err = os.WriteFile(l.sysctl, limit, 0)
	}
	if err != nil {
		return fmt.Errorf("restore a limit: %w", err)
	}
	return nil
}
