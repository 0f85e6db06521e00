// Package pipetail keeps the last words of a program that writes to a pipe. The
// runtime's hooks on the host and those in the guest have nothing else in
// common: so it stands between the two, and knows neither.
package pipetail

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Size is how much is kept, in bytes.
	Size = 2 << 10
	// maxPipe is more than a pipe holds, unless somebody raised its size.
	maxPipe = 1 << 20
)

// Tail keeps the end of what is written to a pipe.
type Tail struct {
	reader *os.File
	kept   []byte
	done   chan struct{} // closed when the goroutine that reads has ended
}

// New also returns the end to write to. Finish must follow.
func New() (*Tail, *os.File, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	t := &Tail{reader: reader, done: make(chan struct{})}
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

func (t *Tail) add(data []byte) {
	t.kept = append(t.kept, data...)
	if extra := len(t.kept) - Size; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
}

// Finish returns what was written last. It does not wait for the pipe's end: a
// process that the program left behind may hold it open.
func (t *Tail) Finish() string {
	defer t.reader.Close()
	_ = t.reader.SetReadDeadline(time.Unix(1, 0)) // ends the goroutine; a pipe always has deadlines
	<-t.done
	raw, err := t.reader.SyscallConn()
	if err != nil {
		return string(t.kept)
	}
	// The goroutine may have left what the program wrote just before its end.
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
