// Package channel carries small JSON messages with file descriptors between
// two processes of this runtime, over a SOCK_SEQPACKET unix socket: one message
// a packet, so that neither side can take half of one for a whole.
package channel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxMessage bounds an encoded message, in bytes.
	MaxMessage = 128 << 10
	// MaxFiles bounds the descriptors of a message; the kernel's own limit,
	// SCM_MAX_FD, is 253.
	MaxFiles = 64
)

// Conn is one end of a channel. Send and Receive may be called at the same
// time as each other, and Send by several goroutines.
type Conn struct {
	conn *net.UnixConn

	sending sync.Mutex // keeps the packets of several senders whole
}

// Pair makes a channel within this process and returns one end ready for use,
// and the other as a file to be given to a child.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel")
	conn, err := FromFile(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// FromFile makes an end of a channel from a connected socket, and closes file
// in any case.
func FromFile(file *os.File) (*Conn, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("use descriptor as a channel: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("use descriptor as a channel: it is a %s socket", conn.LocalAddr().Network())
	}
	return FromConn(unixConn), nil
}

// FromConn makes an end of a channel from a connection of network
// "unixpacket".
func FromConn(conn *net.UnixConn) *Conn {
	_ = conn.SetWriteBuffer(2 * MaxMessage) // the default may be smaller than a message
	return &Conn{conn: conn}
}

// Send writes one message with files attached. The files stay the caller's.
func (c *Conn) Send(message any, files ...*os.File) error {
	data, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(data) > MaxMessage || len(files) > MaxFiles {
		return fmt.Errorf("send message: %d bytes and %d files are more than %d and %d",
			len(data), len(files), MaxMessage, MaxFiles)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, file := range files {
			fds[i] = int(file.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if _, _, err := c.conn.WriteMsgUnix(data, rights, nil); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Receive reads one message into message and returns the files that came with
// it, which are the caller's to close. At the peer's end it returns io.EOF.
func (c *Conn) Receive(message any) ([]*os.File, error) {
	data := make([]byte, MaxMessage)
	rights := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, rightsLen, flags, _, err := c.conn.ReadMsgUnix(data, rights)
	if err != nil {
		if errors.Is(err, unix.ECONNRESET) || errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("receive message: %w", err)
	}
	files, err := parseRights(rights[:rightsLen])
	if err != nil {
		return nil, err
	}
	if n == 0 {
		closeAll(files)
		return nil, io.EOF
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(files)
		return nil, errors.New("receive message: it is longer than the limit")
	}
	if err := json.Unmarshal(data[:n], message); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("decode message: %w", err)
	}
	return files, nil
}

// SetDeadline bounds Send and Receive; the zero time lifts the bound.
func (c *Conn) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

// Close ends the channel; the peer receives io.EOF.
func (c *Conn) Close() error { return c.conn.Close() }

// File returns a duplicate of the socket, to be given to a child.
func (c *Conn) File() (*os.File, error) { return c.conn.File() }

func parseRights(data []byte) ([]*os.File, error) {
	if len(data) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(data)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	var files []*os.File
	for i := range messages {
		if len(messages[i].Data)%4 != 0 { // of no kernel: ParseUnixRights would panic
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // another kind of control message
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}
