package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// bell waits for a queue's notifications on a thread of the caller's. Go's own
// poller, which an os.File goes by, wakes a second thread for many a
// notification, and looks twice at the descriptor.
type bell struct {
	kick, wake int
}

// newBell takes over kick, which does not block.
func newBell(kick int) (*bell, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		closeFD(kick)
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return &bell{kick: kick, wake: wake}, nil
}

func (b *bell) wait() bool {
	var counter [8]byte
	fds := [2]unix.PollFd{{Fd: int32(b.wake), Events: unix.POLLIN}, {Fd: int32(b.kick), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds[:], -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return false
		}
		if fds[0].Revents != 0 {
			_, _ = unix.Read(b.wake, counter[:])
			return false
		}
		// A descriptor that is no eventfd and always ready is the VMM's own fault.
		_, _ = unix.Read(b.kick, counter[:])
		return true
	}
}

func (b *bell) interrupt() {
	_, _ = unix.Write(b.wake, binary.NativeEndian.AppendUint64(nil, 1))
}

func (b *bell) close() {
	closeFD(b.kick)
	closeFD(b.wake)
}
