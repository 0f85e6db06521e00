// Package control owns the messages between a Host of package vsock and the process
// that serves its device: on a socket of packets (SOCK_SEQPACKET), one each, all of
// one size.
//
// Descriptors go to the device alone: each connection's far end, of a socket pair
// that the Host made, travels with the request that the connection is for. The Host
// takes none, whatever the process sends: it might have been taken over.
//
// The process answers each Dial and Accept once. A Listen that is not possible shows
// in the answers to what is accepted there.
package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kind says what a message means.
type Kind uint32

// The messages.
const (
	// Dial connects the descriptor with a port of the guest.
	Dial Kind = iota + 1
	// Listen takes the guest's connections to a port from now on, Unlisten no more;
	// what nobody has accepted is reset.
	Listen
	Unlisten
	// Accept connects the descriptor with the next connection to a port.
	Accept
	// Cancel gives up a Dial, which is answered nevertheless.
	Cancel

	// Answer is what came of the Dial or Accept with the same ID: an Errno, or 0 and
	// the Port of the host for a Dial, of the guest for an Accept.
	Answer
	// Connected says that the VMM talks.
	Connected
	// Failed says why the device has ended: an Errno.
	Failed
)

// Message is one message; which fields count depends on its kind.
type Message struct {
	Kind  Kind
	Port  uint32
	ID    uint64
	Errno syscall.Errno
}

// Size is that of each message, in bytes.
const Size = 24

// maxErrno is the highest that the kernel has.
const maxErrno = 4095

var (
	// ErrMessage says that the other side sent what is no message.
	ErrMessage = errors.New("is no message of the vsock device's")
	errFiles   = errors.New("carries another number of descriptors")
)

// Encode returns the message's bytes.
func (m Message) Encode() []byte {
	b := make([]byte, 0, Size)
	b = binary.LittleEndian.AppendUint32(b, uint32(m.Kind))
	b = binary.LittleEndian.AppendUint32(b, m.Port)
	b = binary.LittleEndian.AppendUint64(b, m.ID)
	return binary.LittleEndian.AppendUint64(b, uint64(m.Errno))
}

// Decode reads a message of those kinds that answers is true for, or false.
func Decode(b []byte, answers bool) (Message, error) {
	if len(b) != Size {
		return Message{}, fmt.Errorf("%d bytes: %w", len(b), ErrMessage)
	}
	m := Message{
		Kind: Kind(binary.LittleEndian.Uint32(b)), Port: binary.LittleEndian.Uint32(b[4:]),
		ID: binary.LittleEndian.Uint64(b[8:]),
	}
	errno := binary.LittleEndian.Uint64(b[16:])
	m.Errno = syscall.Errno(errno)
	if m.Kind < Dial || m.Kind > Failed || (m.Kind >= Answer) != answers || errno > maxErrno {
		return Message{}, fmt.Errorf("kind %d, errno %d: %w", m.Kind, errno, ErrMessage)
	}
	return m, nil
}

// Pair returns the two ends of a socket for messages.
func Pair() (*net.UnixConn, *os.File, error) {
	return pair(unix.SOCK_SEQPACKET, "control of the vsock device")
}

// StreamPair returns the two ends of a connection: what is there of one in the Host,
// and what the device serves.
func StreamPair() (*net.UnixConn, *os.File, error) {
	conn, file, err := pair(unix.SOCK_STREAM, "vsock connection")
	if err == nil {
		// What is on its way is sent in larger pieces then. The default works too.
		_ = conn.SetWriteBuffer(toGuestBuffer)
		_ = setSendBuffer(file, fromGuestBuffer)
	}
	return conn, file, err
}

const (
	// toGuestBuffer is what may be on its way to the device, in bytes.
	toGuestBuffer = 256 << 10
	// fromGuestBuffer is what may be on its way from it; the kernel takes twice that
	// for as much data. What a guest sends in one go, which is its window at most, goes
	// from its memory to the socket then, and needs no other.
	fromGuestBuffer = 512 << 10
)

// setSendBuffer sets the size of what a socket has not handed over yet, whatever the
// host's limit for others is (net.core.wmem_max), if this process may.
func setSendBuffer(file *os.File, size int) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size); failed != nil {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, size)
		}
	})
	return errors.Join(err, failed)
}

func pair(kind int, name string) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	conn, err := Conn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}

// Conn makes a socket's file, which it closes, a connection.
func Conn(file *os.File) (*net.UnixConn, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file.Name(), err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is a %T", file.Name(), conn), conn.Close())
	}
	return unixConn, nil
}

// Send sends a message, with a descriptor unless file is nil.
func Send(conn *net.UnixConn, m Message, file *os.File) error {
	if file == nil {
		_, err := conn.Write(m.Encode())
		return err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	// Fd would make the file block.
	err = raw.Control(func(fd uintptr) {
		_, _, sent = conn.WriteMsgUnix(m.Encode(), unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sent)
}

// ReceiveAnswer takes a message of the device's process, and never a descriptor. At
// the end of the connection it returns io.EOF itself.
func ReceiveAnswer(conn *net.UnixConn) (Message, error) {
	var raw [Size + 1]byte
	// Without room for them, the kernel drops descriptors, and says so.
	n, _, flags, _, err := conn.ReadMsgUnix(raw[:], nil)
	switch {
	case errors.Is(err, io.EOF):
		return Message{}, io.EOF
	case err != nil:
		return Message{}, err
	case flags&unix.MSG_CTRUNC != 0:
		return Message{}, fmt.Errorf("message of %d bytes %w", n, errFiles)
	}
	return Decode(raw[:n], true)
}

// ReceiveRequest takes a message of the Host's, and the descriptor of one that has
// one. At the end of the connection it returns io.EOF itself.
func ReceiveRequest(conn *net.UnixConn) (Message, *os.File, error) {
	var raw [Size + 1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(raw[:], oob)
	if errors.Is(err, io.EOF) {
		return Message{}, nil, io.EOF
	}
	if err != nil {
		return Message{}, nil, err
	}
	file, err := takeFile(oob[:oobn])
	if err != nil {
		return Message{}, nil, err
	}
	m, err := Decode(raw[:n], false)
	if want := m.Kind == Dial || m.Kind == Accept; err == nil && (want != (file != nil) || flags&unix.MSG_CTRUNC != 0) {
		err = fmt.Errorf("message of kind %d %w", m.Kind, errFiles)
	}
	if err != nil && file != nil {
		err = errors.Join(err, file.Close())
	}
	return m, file, err
}

// takeFile returns the descriptor in oob, nil if there is none.
func takeFile(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil //nolint:nilnil // see above
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("take a descriptor: %w", err)
	}
	var fds []int
	for i := range messages {
		// Alignment makes room for more than one.
		more, parsed := unix.ParseUnixRights(&messages[i])
		fds, err = append(fds, more...), errors.Join(err, parsed)
	}
	if err == nil && len(fds) == 1 {
		return os.NewFile(uintptr(fds[0]), "vsock connection"), nil
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return nil, fmt.Errorf("take a descriptor of %d: %w", len(fds), errors.Join(err, errFiles))
}
