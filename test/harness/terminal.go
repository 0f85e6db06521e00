package harness

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// StartOnTerminal starts a prepared command on a new terminal of the given
// size, as its session's controlling terminal, and returns the other end.
func (h *Host) StartOnTerminal(command *exec.Cmd, rows, columns uint16) console.Console {
	h.T.Helper()
	master, path, err := console.NewPty()
	if err != nil {
		h.T.Fatalf("make a terminal: %v", err)
	}
	h.T.Cleanup(func() { _ = master.Close() })
	if err := master.Resize(console.WinSize{Height: rows, Width: columns}); err != nil {
		h.T.Fatalf("size the terminal: %v", err)
	}
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		h.T.Fatalf("open the terminal: %v", err)
	}
	defer slave.Close()
	command.Stdin, command.Stdout, command.Stderr = slave, slave, slave
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := command.Start(); err != nil {
		h.T.Fatalf("start %s: %v", command, err)
	}
	return master
}

// Expect reads until text has come, and not a byte further, and returns all
// that was read.
func (h *Host) Expect(from io.Reader, text string) string {
	h.T.Helper()
	var read strings.Builder
	one := make([]byte, 1)
	for !strings.HasSuffix(read.String(), text) {
		n, err := from.Read(one)
		read.Write(one[:n])
		if err != nil {
			h.T.Fatalf("waiting for %q: %v after %q", text, err, read.String())
		}
	}
	return read.String()
}

// ReadAll reads to the end; a terminal that was hung up has ended too.
func (h *Host) ReadAll(from io.Reader) string {
	h.T.Helper()
	data, err := io.ReadAll(from)
	if err != nil && !errors.Is(err, unix.EIO) {
		h.T.Fatalf("read to the end: %v after %q", err, data)
	}
	return string(data)
}

// ConsoleSocket listens as a caller does that passes --console-socket, or
// --pidfd-socket: the messages are alike. The
// function returns the terminal, or pidfd, that the runtime sent.
func (h *Host) ConsoleSocket() (path string, receive func() *os.File) {
	h.T.Helper()
	path = h.File(h.ID() + ".sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		h.T.Fatalf("listen: %v", err)
	}
	h.T.Cleanup(func() { _ = listener.Close() })
	return path, func() *os.File {
		h.T.Helper()
		if err := listener.SetDeadline(time.Now().Add(Patience)); err != nil {
			h.T.Fatal(err)
		}
		conn, err := listener.AcceptUnix()
		if err != nil {
			h.T.Fatalf("no console was sent: %v", err)
		}
		defer conn.Close()
		return h.receiveFile(conn)
	}
}

// receiveFile takes one message with exactly one descriptor, as callers do:
// their buffers have room for no more.
func (h *Host) receiveFile(conn *net.UnixConn) *os.File {
	h.T.Helper()
	data, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, controlLen, flags, _, err := conn.ReadMsgUnix(data, control)
	if err != nil || n == 0 || flags&unix.MSG_CTRUNC != 0 {
		h.T.Fatalf("console message: %d bytes, flags %#x, %v", n, flags, err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlLen])
	if err != nil || len(messages) != 1 {
		h.T.Fatalf("console message: %d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		h.T.Fatalf("console message: %d descriptors, %v", len(fds), err)
	}
	// The description is the caller's own: non-blocking lets a read be bounded.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		h.T.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "console")
	h.T.Cleanup(func() { _ = file.Close() })
	if err := file.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		h.T.Fatal(err)
	}
	return file
}
