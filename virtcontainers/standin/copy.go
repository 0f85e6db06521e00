package standin

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// copySize is how much is moved at once, in bytes.
	copySize = 1 << 20
	// bufferSize is how much is moved at once by way of a buffer, and largeBuffer where
	// there is much.
	bufferSize  = 64 << 10
	largeBuffer = pipeSize
	// pipeSize is what a pipe that much goes through is to hold at least, in bytes: with
	// the kernel's 64 KiB, whoever fills it and whoever reads it wait for each other five
	// times as often.
	pipeSize = 256 << 10
	// fewBytes is how much has to come at once for a socket to be spliced: each piece
	// takes a place of the pipe, of which there are 16, however small it is.
	fewBytes = 16 << 10
)

// flow tells of a stream that is being copied.
type flow struct {
	passed atomic.Uint64 // bytes that were written
	// busy is set before bytes are read, until they were written and counted.
	busy atomic.Bool
}

// await waits for bytes to read, and lets nobody take the stream for silent from
// then on.
func (f *flow) await(from int) error {
	f.busy.Store(false)
	err := await(from, unix.POLLIN)
	f.busy.Store(true)
	return err
}

// copyStream moves bytes until src ends or dst takes no more, and counts them. It
// works on descriptors of either mode, blocking or not, and never changes it:
// those of the caller are shared with other processes.
func copyStream(to, from int, flow *flow) {
	if !isPipe(to) || !isPipe(from) {
		// Between a pipe and anything else, splice(2) waits with the pipe
		// locked, so that its other end hangs; and it notes a file's offset
		// before it waits, so that it overwrites what another process that
		// shares the offset has written meanwhile. See spliceMuch for what it can do.
		copyThrough(to, from, flow)
		return
	}
	defer flow.busy.Store(false)
	for {
		if err := flow.await(from); err != nil {
			return
		}
		n, err := unix.Splice(from, nil, to, nil, copySize, unix.SPLICE_F_MOVE)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			// Which of the two is not ready is not said: wait for both.
			if await(to, unix.POLLOUT) != nil {
				return
			}
		case errors.Is(err, unix.EINVAL):
			copyThrough(to, from, flow) // the same pipe, or one opened to append
			return
		case err != nil || n == 0:
			return
		default:
			flow.passed.Add(uint64(n))
		}
	}
}

func isPipe(fd int) bool {
	var stat unix.Stat_t
	return unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO
}

// copyThrough is copyStream by way of a buffer. Where a socket has more for a pipe than
// that holds, it is spliced as long as there is much: the socket's pages become the
// pipe's, and are copied by who reads that alone.
func copyThrough(to, from int, flow *flow) {
	buffer := make([]byte, bufferSize)
	splices, much := isPipe(to) && isSocket(from), false
	defer flow.busy.Store(false)
	for {
		if err := flow.await(from); err != nil {
			return
		}
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
			flow.passed.Add(uint64(written))
		}
		if n < len(buffer) {
			continue
		}
		if !much {
			much = true
			enlarge(from)
			enlarge(to)
		}
		if splices {
			if splices, err = spliceMuch(to, from, flow); err != nil {
				return
			}
		} else if len(buffer) < largeBuffer {
			buffer = make([]byte, largeBuffer)
		}
	}
}

// spliceMuch moves what a socket has into a pipe, until little comes at once. It waits
// for either as who copies does, and never with the pipe locked. It is false where the
// two cannot be spliced.
func spliceMuch(to, from int, flow *flow) (able bool, err error) {
	for {
		if err := flow.await(from); err != nil {
			return true, err
		}
		n, err := unix.Splice(from, nil, to, nil, copySize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN): // since from is ready, to is not
			if err := await(to, unix.POLLOUT); err != nil {
				return true, err
			}
		case errors.Is(err, unix.EINVAL):
			return false, nil
		case err != nil:
			return true, err
		default:
			flow.passed.Add(uint64(n))
			if n < fewBytes { // or the end, which is read then
				return true, nil
			}
		}
	}
}

// enlarge gives a pipe pipeSize, if it has less and may have that. A smaller one works
// too.
func enlarge(pipe int) {
	if size, err := unix.FcntlInt(uintptr(pipe), unix.F_GETPIPE_SZ, 0); err == nil && size < pipeSize {
		_, _ = unix.FcntlInt(uintptr(pipe), unix.F_SETPIPE_SZ, pipeSize)
	}
}

func isSocket(fd int) bool {
	var stat unix.Stat_t
	return unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK
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
