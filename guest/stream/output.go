package stream

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	firstBuffer = 8 << 10   // what most processes ever print
	largeBuffer = 512 << 10 // for those that print much
)

// Output copies from the agent's end of a process's pipe or terminal to the
// host. Make it with NewOutput.
type Output struct {
	host    io.WriteCloser
	drained chan struct{} // closed when source is used no more
	done    chan struct{} // closed when the copying has ended

	mu     sync.Mutex // held while reading; guards what follows
	source *os.File   // nil after Finish
	tail   []byte     // what Finish found
	ended  bool       // source reached its end
}

// NewOutput starts to copy from source, whose descriptor must be non-blocking,
// to host. It closes host at the end. The owner closes source after Finish; it is
// closed before only when host takes no more.
func NewOutput(source *os.File, host io.WriteCloser) *Output {
	o := &Output{host: host, source: source, drained: make(chan struct{}), done: make(chan struct{})}
	go o.copy()
	return o
}

// copy is the goroutine of an Output; Wait waits for it.
func (o *Output) copy() {
	defer close(o.done)
	defer o.host.Close()
	buffer := make([]byte, firstBuffer)
	for {
		n, err := o.read(buffer)
		if n > 0 {
			if _, err := o.host.Write(buffer[:n]); err != nil {
				o.hangUp()
				return
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			<-o.drained
			if len(o.tail) > 0 {
				// Nothing is left to do when this fails: the host is gone.
				_, _ = o.host.Write(o.tail)
				o.tail = nil // The Output may be kept for longer.
			}
			return
		}
		if err != nil {
			return
		}
		if n == len(buffer) && n < largeBuffer {
			widen(o.host)
			buffer = make([]byte, largeBuffer)
		}
	}
}

// read reads from the source; its errors all mean that nothing more comes this
// way, and os.ErrDeadlineExceeded that the rest is in the tail.
func (o *Output) read(buffer []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.source == nil {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := o.source.Read(buffer)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		o.ended = true
	}
	return n, err
}

// hangUp closes the source after the host went away, so that the process's next
// write fails: it gets SIGPIPE, or SIGHUP from a terminal, as when the reader
// of a container's output goes away without a machine in between.
func (o *Output) hangUp() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	if o.source != nil {
		o.source.Close()
	}
}

// Finish is called once, when the process has exited. It takes what is in the
// pipe now and returns without waiting for anybody; the source may then be
// closed. It returns the source if somebody else may still write to it, otherwise
// nil.
func (o *Output) Finish() (left *os.File) {
	// Ends a read that waits for more.
	deadlineErr := o.source.SetReadDeadline(time.Unix(1, 0))
	if deadlineErr != nil {
		// The source takes no deadlines: only closing ends a waiting read.
		o.source.Close()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended && deadlineErr == nil {
		o.tail = readPending(o.source, pipeSize)
		left = o.source
	}
	o.source = nil
	close(o.drained)
	return left
}

// Discard reads a pipe, the source of an Output that was finished, until nobody
// has its other end, and closes it: what a process has left in the background must
// not end because of what it writes.
func Discard(source *os.File) {
	defer source.Close()
	if source.SetReadDeadline(time.Time{}) == nil {
		_, _ = io.Copy(io.Discard, source) // an error is the end, too
	}
}

// Wait returns when everything was delivered to the host, or the host is gone.
func (o *Output) Wait() { <-o.done }

// Abort gives up what was not delivered.
func (o *Output) Abort() {
	o.host.Close()
}

// readPending reads what a non-blocking file holds, up to limit bytes: no more
// than that can have been in it at the start, and a process in the background
// may go on writing for ever.
func readPending(file *os.File, limit int) []byte {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil
	}
	var pending []byte
	buffer := make([]byte, firstBuffer) // most leave nothing
	// Control, and not Read: the file's deadline has passed.
	_ = raw.Control(func(fd uintptr) {
		for len(pending) < limit {
			n, err := unix.Read(int(fd), buffer)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 || err != nil {
				return
			}
			pending = append(pending, buffer[:n]...)
			if n == len(buffer) && n < largeBuffer {
				buffer = make([]byte, largeBuffer)
			}
		}
	})
	return pending
}
