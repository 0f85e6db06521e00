package standin

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// copySize is how much is moved at once, in bytes.
const copySize = 1 << 20

// copyStream moves bytes until src ends or dst takes no more. It works on
// descriptors of either mode, blocking or not, and never changes it: those of
// the caller are shared with other processes. passed counts bytes when set.
func copyStream(to, from int, passed *atomic.Uint64) {
	if !isPipe(to) || !isPipe(from) {
		// Between a pipe and anything else, splice(2) waits with the pipe
		// locked, so that its other end hangs; and it notes a file's offset
		// before it waits, so that it overwrites what another process that
		// shares the offset has written meanwhile.
		copyThrough(to, from, passed)
		return
	}
	for {
		n, err := unix.Splice(from, nil, to, nil, copySize, unix.SPLICE_F_MOVE)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			// Which of the two is not ready is not said: wait for both.
			if await(from, unix.POLLIN) != nil || await(to, unix.POLLOUT) != nil {
				return
			}
		case errors.Is(err, unix.EINVAL):
			copyThrough(to, from, passed) // the same pipe, or one opened to append
			return
		case err != nil || n == 0:
			return
		default:
			count(passed, n)
		}
	}
}

func isPipe(fd int) bool {
	var stat unix.Stat_t
	return unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO
}

// copyThrough is copyStream by way of a buffer.
func copyThrough(to, from int, passed *atomic.Uint64) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := retry(from, unix.POLLIN, func() (int, error) { return unix.Read(from, buffer) })
		if err != nil || n == 0 {
			return
		}
		for rest := buffer[:n]; len(rest) > 0; {
			written, err := retry(to, unix.POLLOUT, func() (int, error) { return unix.Write(to, rest) })
			if err != nil {
				return
			}
			rest = rest[written:]
			count(passed, int64(written))
		}
	}
}

func retry(fd int, events int16, call func() (int, error)) (int, error) {
	for {
		n, err := call()
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := await(fd, events); err != nil {
				return 0, err
			}
		default:
			return n, err
		}
	}
}

func await(fd int, events int16) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func count(passed *atomic.Uint64, n int64) {
	if passed != nil {
		passed.Add(uint64(n))
	}
}
