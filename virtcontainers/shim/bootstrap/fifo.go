package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// fifo is a log that somebody else reads, or not: it never waits. Its reader may
// come late, go, and come back, as containerd does when it is restarted; what
// the pipe has no room for meanwhile is dropped. It is open for reading as well,
// so that the kernel never finds it without a reader.
type fifo struct {
	fd int

	mu      sync.Mutex // guards what follows, and the order of pieces
	dropped int        // entries since the last one that was written
	cut     bool       // the last thing in the pipe is a piece of an entry
	closed  bool
}

// pipeBuf is what the kernel writes to a pipe as one piece or not at all.
const pipeBuf = 4096

func openFIFO(path string) (*fifo, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, errors.Join(fmt.Errorf("%s is no FIFO", path), err, unix.Close(fd))
	}
	return &fifo{fd: fd}, nil
}

// Write implements io.Writer. It takes an entry of a log, and never fails.
func (f *fifo) Write(entry []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, fs.ErrClosed
	}
	data := entry
	if f.dropped > 0 {
		note := fmt.Sprintf("level=warning msg=\"entries of the log had no room\" entries=%d\n", f.dropped)
		if f.cut {
			note = "\n" + note
		}
		data = append([]byte(note), entry...)
	}
	for rest := data; len(rest) > 0; {
		piece := rest[:min(len(rest), pipeBuf)]
		if !f.put(piece) {
			f.dropped++
			break
		}
		rest = rest[len(piece):]
		if len(rest) == 0 {
			f.dropped, f.cut = 0, false
		} else {
			f.cut = true
		}
	}
	return len(entry), nil
}

// put writes a piece of at most pipeBuf, whole or not at all.
func (f *fifo) put(piece []byte) bool {
	for {
		_, err := unix.Write(f.fd, piece)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

func (f *fifo) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		unix.Close(f.fd)
	}
}
