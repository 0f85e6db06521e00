package console

import (
	"fmt"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/stream"
)

// Streams hands out the connections of processes' standard streams.
type Streams interface {
	// Claim returns the connection of a stream, which the caller then owns.
	Claim(header protocol.StreamHeader) (net.Conn, error)
}

// stdio joins the streams of a process with its pipes or its terminal.
type stdio struct {
	host   [3]net.Conn // nil for what was not asked for
	child  []*os.File  // the process's ends, closed once it has them
	agent  [3]*os.File // the agent's ends of pipes
	master *os.File    // the terminal; nil without

	input   *stream.Input
	outputs []*stream.Output
}

// connect claims the streams that a request names, and gives cmd its ends.
func connect(streams Streams, req *protocol.ExecProcessRequest, cmd *exec.Cmd, terminal bool) (_ *stdio, err error) {
	s := &stdio{}
	defer func() {
		if err != nil {
			s.abort()
		}
	}()
	for i, wanted := range []bool{req.GetStdin(), req.GetStdout(), req.GetStderr()} {
		if !wanted {
			continue
		}
		header := protocol.StreamHeader{Process: req.GetProcessId(), Stream: protocol.Stream(i)}
		if s.host[i], err = streams.Claim(header); err != nil {
			return nil, err
		}
	}
	if terminal {
		if s.host[protocol.Stdout] == nil {
			return nil, status.Error(codes.InvalidArgument, "exec in the guest: nobody takes the terminal's output")
		}
		err = s.openTerminal(cmd)
		return s, err
	}
	// nil is /dev/null.
	if s.host[protocol.Stdin] != nil {
		end, err := s.pipe(protocol.Stdin, stream.InputPipe)
		if err != nil {
			return nil, err
		}
		cmd.Stdin = end
	}
	if s.host[protocol.Stdout] != nil {
		end, err := s.pipe(protocol.Stdout, stream.OutputPipe)
		if err != nil {
			return nil, err
		}
		cmd.Stdout = end
	}
	if s.host[protocol.Stderr] != nil {
		end, err := s.pipe(protocol.Stderr, stream.OutputPipe)
		if err != nil {
			return nil, err
		}
		cmd.Stderr = end
	}
	return s, nil
}

func (s *stdio) pipe(which protocol.Stream, open func() (agent, process *os.File, err error)) (*os.File, error) {
	agent, process, err := open()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", which, err)
	}
	s.agent[which] = agent
	s.child = append(s.child, process)
	return process, nil
}

// openTerminal makes a pair of the guest's own devpts. The master's descriptor is
// non-blocking.
func (s *stdio) openTerminal(cmd *exec.Cmd) error {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open a terminal: %w", err)
	}
	s.master = os.NewFile(uintptr(fd), "terminal")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock the terminal: %w", err)
	}
	// By the descriptor, whatever is mounted where.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fmt.Errorf("open the terminal's other side: %w", errno)
	}
	end := os.NewFile(slave, "terminal")
	s.child = append(s.child, end)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = end, end, end
	return nil
}

// begin starts to copy; the process has its ends now.
func (s *stdio) begin() {
	s.closeChild()
	if s.master != nil {
		s.outputs = append(s.outputs, stream.NewOutput(s.master, s.host[protocol.Stdout]))
		if conn := s.host[protocol.Stdin]; conn != nil {
			s.input = stream.NewInput(conn, s.master, false)
		}
		return
	}
	if conn := s.host[protocol.Stdin]; conn != nil {
		s.input = stream.NewInput(conn, s.agent[protocol.Stdin], true)
	}
	for _, which := range []protocol.Stream{protocol.Stdout, protocol.Stderr} {
		if conn := s.host[which]; conn != nil {
			s.outputs = append(s.outputs, stream.NewOutput(s.agent[which], conn))
		}
	}
}

// finish is called when the process has exited: it takes what the process left
// and ends its input. A terminal is hung up; pipes are read on as long as others
// write to them.
func (s *stdio) finish() {
	for _, output := range s.outputs {
		source := output.Finish()
		for i, pipe := range s.agent {
			if pipe != nil && pipe == source {
				go stream.Discard(pipe)
				s.agent[i] = nil
			}
		}
	}
	s.closeAgent()
	if s.input != nil {
		s.input.Stop()
	}
}

// abort closes everything of a process that did not come to be.
func (s *stdio) abort() {
	for _, conn := range s.host {
		if conn != nil {
			conn.Close()
		}
	}
	s.closeChild()
	s.closeAgent()
}

func (s *stdio) closeChild() {
	for _, file := range s.child {
		file.Close()
	}
	s.child = nil
}

func (s *stdio) closeAgent() {
	for _, file := range append([]*os.File{s.master}, s.agent[:]...) {
		if file != nil {
			file.Close()
		}
	}
}

// resize sets the size of the terminal, in characters.
func (s *stdio) resize(rows, columns uint16) error {
	if s.master == nil {
		return status.Error(codes.InvalidArgument, "resize terminal: the process has none")
	}
	return stream.ResizeTerminal(s.master, rows, columns)
}
