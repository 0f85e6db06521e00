package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"
)

// sink is where a process's output goes to: a fifo, a file, or the pipe of a
// logging program.
type sink struct {
	*os.File
	reader *os.File // of a fifo, so that it does not break when nobody else has it open
	met    bool     // somebody else had it open for reading when it was opened
}

func openSink(t target) (*sink, error) {
	n, err := lookUp(t.path)
	if t.scheme == schemeFile && errors.Is(err, os.ErrNotExist) {
		return createSink(t.path)
	}
	if err != nil {
		return nil, err
	}
	defer n.file.Close()
	s := &sink{}
	if n.isFifo() {
		// Without a reader, this fails.
		if s.File, err = n.open(unix.O_WRONLY); errors.Is(err, unix.ENXIO) {
			s.reader, s.File, err = n.openBoth()
		} else if err == nil {
			s.met = true
			if s.reader, err = n.open(unix.O_RDONLY); err != nil {
				s.File.Close()
			}
		}
	} else {
		s.File, err = n.open(unix.O_WRONLY | unix.O_APPEND)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func createSink(path string) (*sink, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &sink{File: file}, nil
}

// Close closes it, whoever may have what a fifo holds: see leave.
func (s *sink) Close() {
	s.File.Close()
	if s.reader != nil {
		s.reader.Close()
	}
}

// leave comes after the last write. waits: nobody has the fifo open, and it must be
// kept open until somebody has (await): what it holds is gone when nobody has it
// open, and a reader that comes then waits for a writer. An error tells what is lost.
func (s *sink) leave(wrote bool) (waits bool, err error) {
	if s.reader == nil {
		return false, nil
	}
	s.reader.Close()
	if !s.isDeserted() {
		return false, nil
	}
	left, links := s.look()
	switch {
	case left == 0 && (wrote || s.met || links == 0):
		return false, nil // there was one, who has read it, or has gone
	case links == 0:
		return false, fmt.Errorf("nobody can open it any more: %d bytes are lost", left)
	}
	return true, nil
}

// await waits for a reader.
func (s *sink) await(ctx context.Context) error {
	// Opening it for writing waits for a reader: that is the event.
	reader, err := fifo.OpenFifo(ctx, s.Name(), unix.O_WRONLY, 0)
	if err == nil {
		return reader.Close()
	}
	if left, _ := s.look(); left > 0 {
		return fmt.Errorf("wait for a reader: %w: %d bytes are lost", err, left)
	}
	return nil // nobody has come for nothing
}

// isAlone tells whether nobody else has the read end open. Nobody writes meanwhile.
func (s *sink) isAlone() (alone bool) {
	s.reader.Close()
	alone = s.isDeserted()
	// A reader that comes in between is none the worse for that.
	reopened := -1
	raw, err := s.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			reopened, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		})
	}
	if err != nil || reopened < 0 {
		s.reader = nil // a write breaks now, as it does where nobody reads
		return false
	}
	s.reader = os.NewFile(uintptr(reopened), s.Name())
	return alone
}

// isDeserted tells whether nobody has the read end open.
func (s *sink) isDeserted() (deserted bool) {
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(poll, 0)
		deserted = err == nil && poll[0].Revents&unix.POLLERR != 0
	})
	return deserted
}

// look returns how many bytes a fifo holds, and how many names it has.
func (s *sink) look() (left int, links uint64) {
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, 0
	}
	_ = raw.Control(func(fd uintptr) {
		left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		var stat unix.Stat_t
		if unix.Fstat(int(fd), &stat) == nil {
			links = uint64(stat.Nlink) //nolint:unconvert // its size differs between architectures
		}
	})
	return left, links
}
