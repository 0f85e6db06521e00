package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	firstBuffer = 8 << 10   // what most processes ever print
	largeBuffer = 256 << 10 // for those that print much
	// pipeSize is asked for a fifo through which much goes, in bytes; the kernel may
	// give less (/proc/sys/fs/pipe-max-size).
	pipeSize = 1 << 20
	// maxRest is more than a process can have left behind, in bytes: what is in its
	// pipe, and on the way here.
	maxRest = 64 << 20
	// lookAfter is how long a fifo may take nothing after the process's end, before it
	// is looked at whether it has a reader.
	lookAfter = 100 * time.Millisecond
)

var (
	// errNotTaken says that the reader took nothing for as long as it may.
	errNotTaken = errors.New("its reader takes nothing: what is left is lost")
	// errTooMuch says that the guest goes on after the process.
	errTooMuch = fmt.Errorf("the guest sends more than %d bytes after the process's end", maxRest)
)

// output copies one of a process's output streams.
type output struct {
	name string
	to   *sink
	log  *slog.Logger

	unblocking sync.Once
	unblocked  chan struct{} // closed when nobody needs to wait for it any more

	// What follows belongs to the goroutine that copies.
	from   net.Conn
	passed uint64 // bytes that were written
	failed bool   // a write has

	mu sync.Mutex // guards what follows, and the deadlines
	// patience is how long a reader may take nothing, and a guest be silent in all,
	// once draining.
	patience            time.Duration
	draining, abandoned bool
	looked              bool          // see stuck
	silence             time.Duration // that is left to the guest
	rest                uint64        // bytes that have come since
	reading             bool          // the guest is waited for
	since               time.Time     // when reading began, or draining
}

// run copies until the output's end. waits: it is all in a fifo, and await must
// follow.
func (o *output) run() (waits bool) {
	err := o.copy()
	o.from.Close() // the container's next write fails, as on a broken pipe
	if isEnd(err) {
		err = nil
	}
	if !errors.Is(err, errNotTaken) || o.isUnblocked() {
		var lost error
		waits, lost = o.to.leave(o.passed > 0)
		err = errors.Join(err, lost)
	}
	o.warn(err)
	if !waits {
		o.to.Close()
	}
	return waits
}

// unblock lets Close return.
func (o *output) unblock() { o.unblocking.Do(func() { close(o.unblocked) }) }

func (o *output) isUnblocked() bool {
	select {
	case <-o.unblocked:
		return true
	default:
		return false
	}
}

// await waits for a reader of what is in a fifo.
func (o *output) await(ctx context.Context) {
	o.warn(o.to.await(ctx))
	o.to.Close()
}

func (o *output) warn(err error) {
	if err != nil {
		o.log.Warn("output of a process", "stream", o.name, "to", o.to.Name(), "error", err)
	}
}

func (o *output) copy() error {
	o.wrote()
	if from, ok := o.from.(io.WriterTo); ok {
		_, err := from.WriteTo(o)
		return o.explain(err)
	}
	buffer := make([]byte, firstBuffer)
	for {
		n, err := o.from.Read(buffer)
		if n > 0 {
			if _, err := o.Write(buffer[:n]); err != nil {
				return o.explain(err)
			}
		}
		if err != nil {
			return o.explain(err)
		}
		if n == len(buffer) && n < largeBuffer {
			buffer = make([]byte, largeBuffer)
		}
	}
}

func (o *output) explain(err error) error {
	switch {
	case errors.Is(err, io.EOF), o.isAbandoned():
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the guest does not end it within %v after the process: %w", o.patience, err)
	default:
		return err
	}
}

// Write passes on what has been read. It is an io.Writer for connections that
// write themselves.
func (o *output) Write(p []byte) (int, error) {
	if err := o.read(len(p)); err != nil {
		return 0, err
	}
	defer o.wrote()
	for rest := p; len(rest) > 0; {
		n, err := o.to.Write(rest)
		before := o.passed
		o.passed += uint64(n)
		rest = rest[n:]
		if before < largeBuffer && o.passed >= largeBuffer {
			enlarge(o.to.File)
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if n == 0 && !o.stuck() || n > 0 && !o.extend() {
				return len(p) - len(rest), errNotTaken
			}
		case errors.Is(err, unix.EPIPE), errors.Is(err, os.ErrClosed):
			return len(p) - len(rest), err // as if the process had written itself
		default:
			// A full disk is not the process's fault, and may have room again.
			if !o.failed {
				o.log.Warn("output of a process is lost", "stream", o.name, "to", o.to.Name(), "error", err)
			}
			o.failed = true
			return len(p), nil
		}
	}
	return len(p), nil
}

// read notes that bytes have come and are to be written.
func (o *output) read(n int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.draining {
		if o.rest += uint64(n); o.rest > maxRest {
			return errTooMuch
		}
		if o.reading {
			o.silence -= time.Since(o.since)
		}
	}
	o.reading = false
	o.boundWrite()
	return nil
}

// wrote notes that the next bytes are waited for.
func (o *output) wrote() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reading, o.since = true, time.Now()
	o.boundRead()
}

// extend grants a reader that takes something more time.
func (o *output) extend() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.boundWrite()
	return !o.abandoned
}

// stuck looks, once, whether a fifo that takes nothing more has a reader. Without one
// the output is not waited for any more. It tells whether to go on.
func (o *output) stuck() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.abandoned || o.looked || o.to.reader == nil {
		return false
	}
	o.looked = true
	if o.to.isAlone() {
		o.unblock()
	}
	o.boundWrite()
	return true
}

// boundWrite and boundRead are called with mu held. A file that takes no deadline
// does not keep a write waiting.
func (o *output) boundWrite() {
	if !o.draining || o.abandoned {
		return
	}
	patience := o.patience
	if !o.looked && o.to.reader != nil {
		patience = min(patience, lookAfter)
	}
	_ = o.to.SetWriteDeadline(time.Now().Add(patience))
}

func (o *output) boundRead() {
	if o.draining && !o.abandoned && o.from != nil {
		_ = o.from.SetReadDeadline(time.Now().Add(o.silence))
	}
}

// drain bounds the rest: the process has exited.
func (o *output) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.draining {
		return
	}
	o.draining, o.silence, o.since = true, o.patience, time.Now()
	o.boundWrite()
	o.boundRead()
}

// abandon ends the copy at once.
func (o *output) abandon() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.abandoned = true
	_ = o.to.SetWriteDeadline(time.Unix(1, 0))
	if o.from != nil {
		o.from.Close()
	}
}

func (o *output) isAbandoned() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.abandoned
}
