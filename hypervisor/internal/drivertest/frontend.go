package drivertest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// FrontEnd is a VMM's side of a vhost-user connection.
type FrontEnd struct {
	t    testing.TB
	Conn *net.UnixConn
}

// NewFrontEnd takes a duplicate of file, a connected socket.
func NewFrontEnd(t testing.TB, file *os.File) *FrontEnd {
	t.Helper()
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	own := -1
	if err := raw.Control(func(fd uintptr) { own, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	duplicate := os.NewFile(uintptr(own), "vhost-user of the VMM")
	defer func() { _ = duplicate.Close() }()
	conn, err := net.FileConn(duplicate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &FrontEnd{t: t, Conn: conn.(*net.UnixConn)}
}

// SocketPair returns two connected unix sockets.
func SocketPair(t testing.TB) (*net.UnixConn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	conn, err := net.FileConn(a)
	_ = a.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Close(), b.Close() })
	return conn.(*net.UnixConn), b
}

// Message encodes a message, which wants a reply if ack.
func Message(request uint32, ack bool, payload []byte) []byte {
	flags := uint32(1)
	if ack {
		flags |= 8
	}
	b := binary.LittleEndian.AppendUint32(nil, request)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// Put encodes numbers, which are uint32 or uint64.
func Put(numbers ...any) []byte {
	var b []byte
	for _, n := range numbers {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, n); err != nil {
			panic(err)
		}
	}
	return b
}

// Send sends a message with descriptors.
func (f *FrontEnd) Send(request uint32, ack bool, payload []byte, fds ...int) {
	f.t.Helper()
	if _, _, err := f.Conn.WriteMsgUnix(Message(request, ack, payload), unix.UnixRights(fds...), nil); err != nil {
		f.t.Fatalf("send request %d: %v", request, err)
	}
}

// Reply reads the reply to a request.
func (f *FrontEnd) Reply(request uint32) []byte {
	f.t.Helper()
	payload, err := f.TryReply(request)
	if err != nil {
		f.t.Fatal(err)
	}
	return payload
}

// TryReply is Reply with an error.
func (f *FrontEnd) TryReply(request uint32) ([]byte, error) {
	var header [12]byte
	if _, err := io.ReadFull(f.Conn, header[:]); err != nil {
		return nil, err
	}
	payload := make([]byte, binary.LittleEndian.Uint32(header[8:]))
	if _, err := io.ReadFull(f.Conn, payload); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(header[:]) != request || binary.LittleEndian.Uint32(header[4:]) != 5 {
		return nil, errors.New("not a reply to the request")
	}
	return payload, nil
}

// Ack sends a message and waits until it was carried out.
func (f *FrontEnd) Ack(request uint32, payload []byte, fds ...int) {
	f.t.Helper()
	f.Send(request, true, payload, fds...)
	if reply := f.Reply(request); binary.LittleEndian.Uint64(reply) != 0 {
		f.t.Fatalf("request %d failed", request)
	}
}

// MemTable encodes a memory table.
func MemTable(regions ...Region) []byte {
	b := Put(uint32(len(regions)), uint32(0))
	for _, r := range regions {
		b = append(b, Put(r.Guest, r.Size, r.User, r.Offset)...)
	}
	return b
}
