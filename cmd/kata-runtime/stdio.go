package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/containerd/console"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// stdio is what a container's stand-in has as its standard streams.
type stdio struct {
	files        [3]*os.File
	wanted       [3]bool // which of them the container is to be connected to
	ownsTerminal bool
	attached     bool
	slave        *os.File // of a pty that was made for this container
}

// newStdio decides on the standard streams: this process's own, or a pty's
// slave whose master goes to the console socket.
func newStdio(ctx context.Context, process *specs.Process, consoleSocket string, attached bool) (*stdio, error) {
	terminal := process.Terminal
	s := &stdio{files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, attached: attached}
	switch {
	case consoleSocket != "" && !terminal:
		return nil, errors.New("--console-socket is given, but process.terminal is false")
	case consoleSocket != "" && attached:
		return nil, errors.New("--console-socket needs a detached container")
	case terminal && !attached && consoleSocket == "":
		return nil, errors.New("process.terminal of a detached container needs --console-socket")
	case consoleSocket != "":
		slave, err := sendTerminal(ctx, consoleSocket, process.ConsoleSize)
		if err != nil {
			return nil, fmt.Errorf("console socket: %w", err)
		}
		s.slave, s.ownsTerminal = slave, true
		s.files = [3]*os.File{slave, slave, slave}
	case terminal:
		adoptSize(process)
	}
	for i, file := range s.files {
		s.wanted[i] = !isNull(file)
	}
	if terminal {
		s.wanted = [3]bool{true, true, false}
	}
	return s, nil
}

// findTerminal is an error, as it is with runc, if the caller of a container that is to
// have a terminal has none: the program would wait for what nobody can type. controlling
// is the name of a process's own terminal.
func findTerminal(controlling string, streams ...*os.File) error {
	if slices.ContainsFunc(streams, isTerminal) {
		return nil
	}
	file, err := os.OpenFile(controlling, os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("process.terminal is true, and the caller has no terminal (%w): set it to false, or run the container detached with --console-socket", err)
	}
	return file.Close()
}

// close releases this process's hold on a pty that it made.
func (s *stdio) close() {
	if s.slave != nil {
		s.slave.Close()
	}
}

// adoptSize gives the container's terminal the size of the caller's, unless
// the spec says one.
func adoptSize(process *specs.Process) {
	if process.ConsoleSize != nil {
		return
	}
	if size, err := unix.IoctlGetWinsize(unix.Stdin, unix.TIOCGWINSZ); err == nil && size.Row > 0 {
		process.ConsoleSize = &specs.Box{Height: uint(size.Row), Width: uint(size.Col)}
	}
}

// isNull tells whether file is /dev/null: the container then has its own.
func isNull(file *os.File) bool {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return true // closed by the caller
	}
	return stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == unix.Mkdev(1, 3)
}

// sendTerminal makes a pty, sends its master to the socket and returns its
// slave, which is raw: the guest does the line discipline.
func sendTerminal(ctx context.Context, socket string, size *specs.Box) (*os.File, error) {
	master, path, err := console.NewPty()
	if err != nil {
		return nil, fmt.Errorf("make a pty: %w", err)
	}
	defer master.Close()
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the pty: %w", err)
	}
	if err := prepareSlave(slave, size); err != nil {
		return nil, errors.Join(err, slave.Close())
	}
	if err := sendDescriptor(ctx, socket, "/dev/ptmx", int(master.Fd())); err != nil {
		return nil, errors.Join(err, slave.Close())
	}
	return slave, nil
}

func prepareSlave(slave *os.File, size *specs.Box) error {
	terminal, err := console.ConsoleFromFile(slave)
	if err != nil {
		return fmt.Errorf("use the pty: %w", err)
	}
	if err := setRaw(terminal); err != nil {
		return err
	}
	if size == nil {
		return nil
	}
	if err := terminal.Resize(console.WinSize{Height: uint16(size.Height), Width: uint16(size.Width)}); err != nil {
		return fmt.Errorf("set the pty's size: %w", err)
	}
	return nil
}

// sendDescriptor passes a descriptor as runc does: one message with a name and
// one descriptor.
func sendDescriptor(ctx context.Context, socket, name string, fd int) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	if _, _, err := unixConn.WriteMsgUnix([]byte(name), unix.UnixRights(fd), nil); err != nil {
		return fmt.Errorf("send the descriptor: %w", err)
	}
	return nil
}

// setRaw makes a terminal pass bytes both ways as they are. SetRaw of the
// console alone leaves output processing on, which would turn the line ends
// that the guest's terminal has made into others.
func setRaw(terminal console.Console) error {
	if err := terminal.SetRaw(); err != nil {
		return fmt.Errorf("make the terminal raw: %w", err)
	}
	fd := int(terminal.Fd())
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read the terminal's mode: %w", err)
	}
	mode.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		return fmt.Errorf("make the terminal raw: %w", err)
	}
	return nil
}
