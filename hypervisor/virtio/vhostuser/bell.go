package vhostuser

import (
	"errors"
	"os"
	"time"
)

// bell waits for a queue's notifications by Go's poller, and can be interrupted. A
// system call that waits would keep Go's scheduler on the watch for its end, which
// takes more of the processors than a short request.
type bell struct {
	kick *os.File
}

// newBell takes over kick, which does not block.
func newBell(kick int) *bell { return &bell{kick: os.NewFile(uintptr(kick), "vhost-user kick")} }

func (b *bell) wait() bool {
	var counter [8]byte
	_, err := b.kick.Read(counter[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = b.kick.SetReadDeadline(time.Time{})
	}
	return err == nil
}

func (b *bell) interrupt() { _ = b.kick.SetReadDeadline(time.Unix(1, 0)) }

func (b *bell) close() { _ = b.kick.Close() }
