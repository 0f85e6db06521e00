package container

import (
	"fmt"
	"net"
	"os"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/stream"
)

// errNoTerminal is what resizing ends with where there is nothing to resize.
var errNoTerminal = fmt.Errorf("%w: the process has no terminal", ErrInvalid)

// connections are a process's streams on the host's side; nil for one that was
// not asked for.
type connections [3]net.Conn

func (c connections) close() {
	for _, conn := range c {
		if conn != nil {
			conn.Close()
		}
	}
}

// claim takes the connections that a request names.
func claim(streams Streams, container string, opts launchOptions) (connections, error) {
	var conns connections
	for i, wanted := range []bool{opts.stdin, opts.stdout, opts.stderr} {
		if !wanted {
			continue
		}
		conn, err := streams.Claim(protocol.StreamHeader{Container: container, Process: opts.name, Stream: protocol.Stream(i)})
		if err != nil {
			conns.close()
			return connections{}, err
		}
		conns[i] = conn
	}
	return conns, nil
}

// stdio joins the streams of a process with its pipes or its terminal.
type stdio struct {
	host    connections
	child   []*os.File  // the process's ends, closed once it has them
	agent   [3]*os.File // the agent's ends
	console *os.File    // where libcontainer sends the terminal, until connect
	master  *os.File    // the terminal; nil without

	input   *stream.Input
	outputs []*stream.Output
}

// prepareStdio makes what the process needs and hands it to lp. It owns host
// from then on, also when it fails. Pipes belong to owner, so that the process
// can open /dev/stdout again.
func prepareStdio(lp *libcontainer.Process, host connections, terminal bool, owner int) (_ *stdio, err error) {
	s := &stdio{host: host}
	defer func() {
		if err != nil {
			s.abort()
		}
	}()
	if terminal {
		if err := s.prepareTerminal(lp); err != nil {
			return nil, err
		}
		return s, nil
	}
	// nil means /dev/null.
	if host[protocol.Stdin] != nil {
		if lp.Stdin, err = s.pipe(protocol.Stdin, stream.InputPipe, owner); err != nil {
			return nil, err
		}
	}
	if host[protocol.Stdout] != nil {
		if lp.Stdout, err = s.pipe(protocol.Stdout, stream.OutputPipe, owner); err != nil {
			return nil, err
		}
	}
	if host[protocol.Stderr] != nil {
		if lp.Stderr, err = s.pipe(protocol.Stderr, stream.OutputPipe, owner); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *stdio) pipe(which protocol.Stream, open func() (agent, process *os.File, err error), owner int) (*os.File, error) {
	agent, process, err := open()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", which, err)
	}
	s.agent[which] = agent
	s.child = append(s.child, process)
	if err := process.Chown(owner, -1); err != nil {
		return nil, fmt.Errorf("%v: %w", which, err)
	}
	return process, nil
}

func (s *stdio) prepareTerminal(lp *libcontainer.Process) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make console socket: %w", err)
	}
	s.console = os.NewFile(uintptr(pair[0]), "console")
	lp.ConsoleSocket = os.NewFile(uintptr(pair[1]), "console")
	s.child = append(s.child, lp.ConsoleSocket)
	return nil
}

// connect begins to copy; the process has its ends now.
func (s *stdio) connect() error {
	s.closeChild()
	if s.console != nil {
		return s.connectTerminal()
	}
	if conn := s.host[protocol.Stdin]; conn != nil {
		s.input = stream.NewInput(conn, s.agent[protocol.Stdin], true)
	}
	for _, which := range []protocol.Stream{protocol.Stdout, protocol.Stderr} {
		if conn := s.host[which]; conn != nil {
			s.outputs = append(s.outputs, stream.NewOutput(s.agent[which], conn))
		}
	}
	return nil
}

func (s *stdio) connectTerminal() error {
	master, err := receiveTerminal(s.console)
	s.console.Close()
	s.console = nil
	if err != nil {
		return err
	}
	s.master = master
	if conn := s.host[protocol.Stdout]; conn != nil {
		s.outputs = append(s.outputs, stream.NewOutput(master, conn))
	} else {
		// Somebody has to read it, or the process stops at a full terminal.
		s.outputs = append(s.outputs, stream.NewOutput(master, discard{}))
	}
	if conn := s.host[protocol.Stdin]; conn != nil {
		s.input = stream.NewInput(conn, master, false)
	}
	return nil
}

// receiveTerminal takes the master side of the terminal that libcontainer sent
// before the process was ready. Its descriptor is made non-blocking.
func receiveTerminal(console *os.File) (*os.File, error) {
	name, oob := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(console.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receive terminal: %d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive terminal: %d descriptors: %w", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// finish is called when the process has exited: it takes what the process left
// and ends its input. It waits for nobody. It returns the pipes to which other
// processes may still be writing, which are the caller's now. A terminal is hung
// up.
func (s *stdio) finish() (left []*os.File) {
	for _, output := range s.outputs {
		source := output.Finish()
		for i, pipe := range s.agent { // a terminal is not among them
			if pipe != nil && pipe == source {
				left = append(left, pipe)
				s.agent[i] = nil
			}
		}
	}
	s.closeAgent()
	if s.input != nil {
		s.input.Stop()
	}
	return left
}

// abort closes everything of a process that did not come to be.
func (s *stdio) abort() {
	for _, pipe := range s.finish() {
		pipe.Close()
	}
	for _, output := range s.outputs {
		output.Abort()
	}
	s.host.close()
	s.closeChild()
}

func (s *stdio) closeChild() {
	for _, file := range s.child {
		file.Close()
	}
	s.child = nil
}

func (s *stdio) closeAgent() {
	for _, file := range []*os.File{s.console, s.master, s.agent[protocol.Stdin], s.agent[protocol.Stdout], s.agent[protocol.Stderr]} {
		if file != nil {
			file.Close()
		}
	}
}

// resize sets the size of the terminal, in characters.
func (s *stdio) resize(rows, columns uint16) error {
	if s.master == nil {
		return errNoTerminal
	}
	return stream.ResizeTerminal(s.master, rows, columns)
}

// discard is the host's side of a terminal that nobody watches.
type discard struct{}

func (discard) Write(data []byte) (int, error) { return len(data), nil }
func (discard) Close() error                   { return nil }
