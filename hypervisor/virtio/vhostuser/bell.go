package vhostuser

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// bell waits for a queue's notifications by Go's poller, and can be interrupted. A
// system call that waits would keep Go's scheduler on the watch for its end, which
// takes more of the processors than a short request.
//
// The descriptor is never read: the poller asks the kernel for edges, and each
// notification is one, however many came before.
type bell struct {
	kick *os.File
	raw  syscall.RawConn
}

// newBell takes over kick.
func newBell(kick *os.File) (*bell, error) {
	raw, err := kick.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for notifications: %w", err), kick.Close())
	}
	return &bell{kick: kick, raw: raw}, nil
}

// kickFile takes over a kick descriptor, which does not block. One that the poller
// cannot wait for, a file or a device that is always ready, is refused: whoever waited
// for it would never sleep.
func kickFile(fd int) (*os.File, error) {
	file := os.NewFile(uintptr(fd), "vhost-user kick")
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot be waited for, want an eventfd: %w", err), file.Close())
	}
	return file, nil
}

// wait returns when more, which is asked when no notification can be missed any more,
// is true, or after a notification. It is false when it was interrupted. An error is
// that of a descriptor which cannot be waited for any more, such as a pipe whose other
// end has gone.
func (b *bell) wait(more func() bool) (bool, error) {
	asked := false
	err := b.raw.Read(func(uintptr) bool {
		if asked {
			return true
		}
		asked = true
		return more()
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = b.kick.SetReadDeadline(time.Time{})
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("wait for notifications: %w", err)
	}
	return true, nil
}

// pause waits for so long, for a notification, or for an interruption.
func (b *bell) pause(d time.Duration) {
	if b.kick.SetReadDeadline(time.Now().Add(d)) == nil {
		_, _ = b.wait(func() bool { return false }) // the next wait will find an error too
		_ = b.kick.SetReadDeadline(time.Time{})
	}
}

func (b *bell) interrupt() { _ = b.kick.SetReadDeadline(time.Unix(1, 0)) }

func (b *bell) close() { _ = b.kick.Close() }
