package container

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tailSize is how much of a hook's standard error is kept, in bytes.
	tailSize = 2 << 10
	// maxPipe is more than a pipe holds, unless somebody raised its size.
	maxPipe = 1 << 20
)

// tail keeps the end of what is written to a pipe.
type tail struct {
	reader *os.File
	kept   []byte
	done   chan struct{} // closed when the goroutine that reads has ended
}

// newTail also returns the end to write to. finish must follow.
func newTail() (*tail, *os.File, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	t := &tail{reader: reader, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		buffer := make([]byte, 16<<10)
		for {
			n, err := t.reader.Read(buffer)
			t.add(buffer[:n])
			if err != nil {
				return
			}
		}
	}()
	return t, writer, nil
}

func (t *tail) add(data []byte) {
	t.kept = append(t.kept, data...)
	if extra := len(t.kept) - tailSize; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
}

// finish returns what was written last. It does not wait for the pipe's end: a
// process that the hook left behind may hold it open.
func (t *tail) finish() string {
	defer t.reader.Close()
	_ = t.reader.SetReadDeadline(time.Unix(1, 0)) // ends the goroutine; a pipe always has deadlines
	<-t.done
	raw, err := t.reader.SyscallConn()
	if err != nil {
		return string(t.kept)
	}
	// The goroutine may have left what the hook wrote just before its end.
	_ = raw.Control(func(fd uintptr) {
		buffer := make([]byte, 16<<10)
		for rest := maxPipe; rest > 0; {
			n, err := unix.Read(int(fd), buffer)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n <= 0 {
				return
			}
			t.add(buffer[:n])
			rest -= n
		}
	})
	return string(t.kept)
}
