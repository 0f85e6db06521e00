package monitor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/channel"
)

// streams are the names that a request gives to files, in the order of
// protocol.Stream.
func streams() []string { return []string{"stdin", "stdout", "stderr"} }

// exec runs a process in the guest for as long as the command is there.
func (s *Server) exec(ctx context.Context, conn *channel.Conn, r *execRequest, files []*os.File) error {
	pipes, err := take(r.Streams, files)
	closeAll(files) // of which pipes are duplicates: the command sees their end
	defer func() { closeAll(pipes[:]) }()
	if err != nil {
		return conn.Send(answer{Error: err.Error()})
	}
	process, err := s.sandbox.ExecGuest(ctx, virtcontainers.ExecOptions{
		ID: "console-" + rand.Text(), Process: r.Process,
		IO: virtcontainers.IO{Stdin: pipes[0] != nil, Stdout: pipes[1] != nil, Stderr: pipes[2] != nil},
	})
	if err != nil {
		return conn.Send(answer{Error: err.Error(), Forbidden: errors.Is(err, virtcontainers.ErrNoGuestExec)})
	}
	defer process.Streams.Close()
	s.log.Info("a process runs in the guest itself")
	gone := make(chan struct{})
	s.background.Go(func() {
		defer close(gone)
		s.obey(ctx, conn, process)
	})
	input, outputs := s.copyStreams(process, pipes)
	if err := conn.Send(answer{Started: true}); err != nil {
		s.log.Debug("the command has gone", "error", err) // obey sees it too
	}
	ended := s.attend(ctx, process, gone, outputs)
	closeAll(pipes[:]) // ends the output for the command, and the copying of input
	process.Streams.Close()
	<-input
	<-outputs
	if ended {
		code := int(process.Exit().Code)
		err = conn.Send(answer{Exit: &code})
		awaitHangUp(gone)
	}
	conn.Close() // ends obey
	<-gone
	return err
}

// awaitHangUp gives a command the time to take the last answer: one that has just
// said something, which nobody has read at the end of the connection, would hear of
// that instead.
func awaitHangUp(gone <-chan struct{}) {
	timer := time.NewTimer(requestTimeout)
	defer timer.Stop()
	select {
	case <-gone:
	case <-timer.C:
	}
}

// attend waits for the process's end and for its output to be taken. A process
// whose command has gone is killed. It tells whether the process has ended.
func (s *Server) attend(ctx context.Context, process *virtcontainers.Process, gone, outputs <-chan struct{}) (ended bool) {
	select {
	case <-process.Done():
	case <-gone:
		// A guest that does not obey ends with its machine, and the process with it.
		if err := process.Signal(context.WithoutCancel(ctx), syscall.SIGKILL); err != nil && !errors.Is(err, virtcontainers.ErrNotRunning) {
			s.log.Warn("kill a process of the guest whose command has gone", "error", err)
		}
		select {
		case <-process.Done():
			return true
		case <-s.ending:
			return false
		}
	}
	select {
	case <-outputs:
	case <-gone:
	}
	return true
}

// obey takes what the command says until it has gone.
func (s *Server) obey(ctx context.Context, conn *channel.Conn, process *virtcontainers.Process) {
	for {
		var c control
		files, err := conn.Receive(&c)
		closeAll(files)
		if err != nil {
			return
		}
		if c.Size == nil {
			continue
		}
		if err := process.Resize(ctx, c.Size.Rows, c.Size.Columns); err != nil {
			s.log.Debug("resize the terminal of a process of the guest", "error", err)
		}
	}
}

// copyStreams moves what the process and the command say to each other. input and
// outputs are closed when that has ended.
func (s *Server) copyStreams(process *virtcontainers.Process, pipes [3]*os.File) (input, outputs <-chan struct{}) {
	begin := func(copies ...func()) <-chan struct{} {
		var group sync.WaitGroup
		for _, move := range copies {
			group.Go(move)
		}
		done := make(chan struct{})
		s.background.Go(func() {
			group.Wait()
			close(done)
		})
		return done
	}
	guest := &process.Streams
	input = begin(func() { move(guest.Stdin, pipes[0]) })
	outputs = begin(
		func() { move(pipes[1], s.untilSilent(process, guest.Stdout)) },
		func() { move(pipes[2], s.untilSilent(process, guest.Stderr)) })
	return input, outputs
}

// rest is an output of the guest that ends, once its process has, when the guest is
// silent for too long: it may keep a stream open that nobody writes to any more.
type rest struct {
	net.Conn
	ended   <-chan struct{} // the process has
	silence time.Duration   // of the guest's, at most
}

// untilSilent returns the output of a process; nil if there is none.
func (s *Server) untilSilent(process *virtcontainers.Process, output net.Conn) io.ReadCloser {
	if output == nil {
		return nil
	}
	r := &rest{Conn: output, ended: process.Done(), silence: s.silence}
	s.background.Go(func() {
		<-r.ended     // at the latest with the machine
		_ = r.bound() // the read that is under way
	})
	return r
}

func (r *rest) Read(p []byte) (int, error) {
	select {
	case <-r.ended:
		if err := r.bound(); err != nil {
			return 0, err
		}
	default:
	}
	return r.Conn.Read(p)
}

func (r *rest) bound() error { return r.SetReadDeadline(time.Now().Add(r.silence)) }

// move copies until either end is gone, and closes both: so the end travels on.
// Either may be nil.
func move(to io.WriteCloser, from io.ReadCloser) {
	if absent(to) || absent(from) {
		return
	}
	defer to.Close()
	defer from.Close()
	_, _ = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from}) // an error is an end
}

// absent tells of a stream that there is not, which may be no nil interface.
func absent(stream any) bool {
	file, ok := stream.(*os.File)
	return stream == nil || ok && file == nil
}

// take sorts the files of a request by their streams: duplicates that can be
// waited for, whatever mode the command's are in.
func take(names []string, files []*os.File) (pipes [3]*os.File, err error) {
	if len(names) != len(files) {
		return pipes, fmt.Errorf("exec in the guest: %d streams have %d files", len(names), len(files))
	}
	for i, name := range names {
		which := slices.Index(streams(), name)
		if which < 0 || pipes[which] != nil {
			return pipes, fmt.Errorf("exec in the guest: no such stream, or twice: %q", name)
		}
		if pipes[which], err = pollable(files[i]); err != nil {
			return pipes, fmt.Errorf("exec in the guest: %s: %w", name, err)
		}
	}
	return pipes, nil
}

func pollable(file *os.File) (*os.File, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(given uintptr) {
		fd, dupErr = unix.FcntlInt(given, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, fmt.Errorf("duplicate: %w", dupErr)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "stream"), nil
}
