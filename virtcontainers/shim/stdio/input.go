package stdio

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lateWriter is how long after CloseStdin somebody who still has the fifo open may
// write nothing before the stream ends without him.
const lateWriter = time.Second

// input is where a process's standard input comes from.
type input struct {
	from *os.File

	mu      sync.Mutex // guards what follows
	writer  *os.File   // of a fifo: no end comes while it is open
	closing bool       // there is no more than what was written
}

func openInput(path string) (*input, error) {
	n, err := lookUp(path)
	if err != nil {
		return nil, err
	}
	defer n.file.Close()
	in := &input{}
	if n.isFifo() {
		in.from, in.writer, err = n.openBoth()
	} else {
		in.from, err = n.open(unix.O_RDONLY)
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// copy passes bytes on until they end, the guest takes no more or close is called.
// It closes both.
func (in *input) copy(to net.Conn) {
	defer to.Close() // the stream's end
	defer in.close()
	buffer := make([]byte, firstBuffer)
	for {
		in.bound()
		n, err := in.from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return // the end, or the deadline of finish
		}
		if n == len(buffer) && n < largeBuffer {
			buffer = make([]byte, largeBuffer)
			enlarge(in.from)
		}
	}
}

// bound makes the next read end when nothing comes that was written in time.
func (in *input) bound() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closing {
		// A file that takes no deadline has an end.
		_ = in.from.SetReadDeadline(time.Now().Add(lateWriter))
	}
}

// finish ends the stream after what has been written.
func (in *input) finish() {
	in.mu.Lock()
	in.closing = true
	if in.writer != nil {
		in.writer.Close()
		in.writer = nil
	}
	in.mu.Unlock()
	in.bound()
}

// close ends the stream now.
func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closing = true
	in.from.Close()
	if in.writer != nil {
		in.writer.Close()
		in.writer = nil
	}
}

// enlarge gives a pipe pipeSize, if it may have that. A smaller one is slower,
// nothing else, and what is no pipe has no size.
func enlarge(file *os.File) {
	if raw, err := file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
}

// isEnd tells an ordinary end of a stream from one that should be known.
func isEnd(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}
