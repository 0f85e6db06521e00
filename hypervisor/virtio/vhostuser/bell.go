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

// newBell takes over kick, which does not block.
func newBell(kick int) (*bell, error) {
	file := os.NewFile(uintptr(kick), "vhost-user kick")
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for notifications: %w", err), file.Close())
	}
	return &bell{kick: file, raw: raw}, nil
}

// wait returns when more, which is asked when no notification can be missed any more,
// is true, or after a notification. It is false when it was interrupted.
func (b *bell) wait(more func() bool) bool {
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
	}
	return err == nil
}

// pause waits for so long, for a notification, or for an interruption.
func (b *bell) pause(d time.Duration) {
	if b.kick.SetReadDeadline(time.Now().Add(d)) == nil {
		b.wait(func() bool { return false })
		_ = b.kick.SetReadDeadline(time.Time{})
	}
}

func (b *bell) interrupt() { _ = b.kick.SetReadDeadline(time.Unix(1, 0)) }

func (b *bell) close() { _ = b.kick.Close() }
