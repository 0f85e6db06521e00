package stream

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// window is how many bytes of a stream that much goes through may be under way
	// between guest and host: as many as the host's device lets a connection have. With
	// the kernel's default of 256 KiB, each side waits for the other after four packets.
	window = 1 << 20
	// spliceSize is how much is moved at once.
	spliceSize = 1 << 20
)

// widen gives a vsock connection the window. The host allows for less where it has to;
// other connections stay as they are.
func widen(conn any) {
	raw := rawConn(conn)
	if raw == nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for _, option := range []int{unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, unix.SO_VM_SOCKETS_BUFFER_SIZE} {
			_ = unix.SetsockoptUint64(int(fd), unix.AF_VSOCK, option, window)
		}
	})
}

// rawConn returns the descriptor behind conn, or nil.
func rawConn(conn any) syscall.RawConn {
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

func isPipe(raw syscall.RawConn) bool {
	var stat unix.Stat_t
	var failed error
	err := raw.Control(func(fd uintptr) { failed = unix.Fstat(int(fd), &stat) })
	return err == nil && failed == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO
}

// spliceInput moves what comes from a connection into a pipe, from where the process
// reads it: what the kernel has received is copied into the pipe's pages, and not into
// the agent's memory and out of it again. Neither end blocks, so that nobody waits with
// the pipe locked. It reports false if this pair cannot be spliced: then nothing was
// moved that way.
//
// There is no such thing for output: Linux hands the pages of a pipe to a vsock socket
// one by one, before 6.5, and each becomes a packet.
func spliceInput(sink *os.File, host any) bool {
	from, to := rawConn(host), rawConn(sink)
	if from == nil || to == nil || !isPipe(to) {
		return false
	}
	moved := false
	for {
		n, err := splice(to, from)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN): // the pipe is full
			if to.Write(func(fd uintptr) bool { return isReady(fd, unix.POLLOUT) }) != nil {
				return true
			}
		case errors.Is(err, unix.EINVAL) && !moved:
			return false
		case err != nil || n == 0:
			return true
		default:
			moved = true
		}
	}
}

// splice waits until there is something to move, and moves some of it. EAGAIN says that
// there is no room for it.
func splice(to, from syscall.RawConn) (n int64, err error) {
	readErr := from.Read(func(source uintptr) bool {
		controlErr := to.Control(func(target uintptr) {
			n, err = unix.Splice(int(source), nil, int(target), nil, spliceSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		})
		if controlErr != nil {
			err = controlErr
			return true
		}
		// Which of the two is not ready is not said.
		return !errors.Is(err, unix.EAGAIN) || isReady(source, unix.POLLIN)
	})
	if readErr != nil {
		return 0, readErr
	}
	return n, err
}

// isReady tells whether an event, or the end, is there.
func isReady(fd uintptr, events int16) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 0)
	return err == nil && n > 0
}
