package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/channel"
)

const (
	// enterTimeout bounds how long a stand-in takes to enter its container.
	enterTimeout = 30 * time.Second
	// pipeSize is asked for each stream's pipe, in bytes; the kernel may give
	// less (/proc/sys/fs/pipe-max-size).
	pipeSize = 1 << 20
)

// standIn is the supervisor's side of a stand-in: the pod.Attachment of its
// process.
type standIn struct {
	conn *channel.Conn
	log  *slog.Logger

	// What follows is written by Begin.
	begun   bool
	process *virtcontainers.Process
	// kill ends the process of a stand-in that is gone.
	kill func(context.Context) error

	early []FromStandIn // what it has received while it entered

	background sync.WaitGroup
	gone       chan struct{} // closed when it has hung up, or was never let in
	closing    sync.Once
}

func newStandIn(conn *channel.Conn, log *slog.Logger) *standIn {
	return &standIn{conn: conn, log: log, gone: make(chan struct{})}
}

// Begin implements pod.Attachment: it lets the stand-in enter the container and
// gives it the streams.
func (s *standIn) Begin(ctx context.Context, process *virtcontainers.Process, kill func(context.Context) error) error {
	s.begun, s.process, s.kill = true, process, kill
	err := s.enter(ctx)
	if err == nil {
		err = s.connect()
	}
	if err != nil {
		close(s.gone)
		return fmt.Errorf("stand-in: %w", err)
	}
	s.background.Go(s.listen)
	return nil
}

func (s *standIn) enter(ctx context.Context) error {
	deadline := time.Now().Add(enterTimeout)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	if err := s.conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("bound the wait: %w", err)
	}
	if err := s.conn.Send(ToStandIn{Enter: true}); err != nil {
		return err
	}
	for entered := false; !entered; {
		var answer FromStandIn
		if _, err := s.conn.Receive(&answer); err != nil {
			return fmt.Errorf("wait for it to enter the container: %w", err)
		}
		switch {
		case answer.Error != "":
			return errors.New(answer.Error)
		case answer.Entered:
			entered = true
		default:
			s.early = append(s.early, answer)
		}
	}
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("lift the bound: %w", err)
	}
	return nil
}

// connect gives the stand-in the process's streams.
func (s *standIn) connect() error {
	var names []string
	var files []*os.File
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	add := func(name string, conn net.Conn, toGuest bool) error {
		if conn == nil {
			return nil
		}
		file, err := s.descriptor(conn, toGuest)
		if err != nil {
			return fmt.Errorf("connect %s: %w", name, err)
		}
		names, files = append(names, name), append(files, file)
		return nil
	}
	streams := &s.process.Streams
	err := errors.Join(
		add("stdin", streams.Stdin, true), add("stdout", streams.Stdout, false), add("stderr", streams.Stderr, false))
	if err != nil {
		return err
	}
	return s.conn.Send(ToStandIn{Streams: names}, files...)
}

// descriptor returns something that the stand-in can read or write: the
// connection's own socket where the kernel carries it, otherwise the far end
// of a pipe that this process copies from or to.
func (s *standIn) descriptor(conn net.Conn, toGuest bool) (*os.File, error) {
	if raw, ok := conn.(syscall.Conn); ok {
		defer conn.Close()
		return duplicate(raw)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	// A smaller pipe is slower, nothing else.
	_, _ = unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	if toGuest {
		s.background.Go(func() { s.copy(conn, r) })
		return w, nil
	}
	s.background.Go(func() { s.copy(w, conn) })
	return r, nil
}

func duplicate(conn syscall.Conn) (*os.File, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reach the socket: %w", err)
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(s uintptr) { fd, dupErr = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, fmt.Errorf("reach the socket: %w", err)
	}
	if dupErr != nil {
		return nil, fmt.Errorf("duplicate the socket: %w", dupErr)
	}
	return os.NewFile(uintptr(fd), "stream"), nil
}

// copy moves one stream until either end is gone; both are closed then, which
// is how the end of the stream travels on.
func (s *standIn) copy(to io.WriteCloser, from io.ReadCloser) {
	defer to.Close()
	defer from.Close()
	_, err := io.CopyBuffer(onlyWriter{to}, onlyReader{from}, make([]byte, 256<<10))
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EPIPE) {
		s.log.Debug("stream ended", "error", err)
	}
}

// onlyWriter and onlyReader hide the shortcuts that io.CopyBuffer would take
// past its large buffer.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// listen takes what the stand-in says until it ends; its end before the
// process's is the process's end.
func (s *standIn) listen() {
	for _, message := range s.early {
		s.obey(message)
	}
	for {
		var message FromStandIn
		if _, err := s.conn.Receive(&message); err != nil {
			break
		}
		s.obey(message)
	}
	close(s.gone)
	err := s.kill(context.Background())
	if err != nil && !errors.Is(err, virtcontainers.ErrNotRunning) {
		s.log.Warn("kill the process of a stand-in that is gone", "error", err)
	}
}

func (s *standIn) obey(message FromStandIn) {
	var err error
	switch {
	case message.Signal > 0:
		err = s.process.Signal(context.Background(), syscall.Signal(message.Signal))
	case message.Size != nil:
		err = s.process.Resize(context.Background(), message.Size.Rows, message.Size.Columns)
	}
	if err != nil && !errors.Is(err, virtcontainers.ErrNotRunning) {
		s.log.Warn("pass on what the stand-in received", "error", err)
	}
}

// Close implements pod.Attachment: it tells the stand-in how its process ended and waits until it has taken
// the rest of the output, or has given up what does not come, or is gone. What
// the guest has not said by then, nobody waits for. Idempotent.
func (s *standIn) Close(exit virtcontainers.Exit) {
	s.closing.Do(func() {
		code := int(exit.Code)
		if err := s.conn.Send(ToStandIn{Exit: &code}); err != nil {
			s.log.Debug("stand-in is gone", "error", err)
		}
		<-s.gone
		s.process.Streams.Close() // ends the copies, whatever the guest does
		s.background.Wait()
		s.conn.Close()
	})
}

// Abandon implements pod.Attachment: it drops a stand-in that does not get rid of its output, and output of
// which the guest tells no end: both end with their connections.
func (s *standIn) Abandon() {
	s.conn.Close()
	s.process.Streams.Close()
}
