package vsock

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
)

const (
	vhostPath = "/dev/vhost-vsock"
	// setGuestCID is VHOST_VSOCK_SET_GUEST_CID, _IOW(0xAF, 0x60, __u64). It needs
	// no VHOST_SET_OWNER before it, which must be left to the VMM: the owner's
	// memory is the guest's.
	setGuestCID = 0x4008af60

	// CIDs below firstCID and anyCID are reserved.
	firstCID = 3
	anyCID   = 1<<32 - 1
	// cidTries is how often a random CID may be taken already. With a million
	// guests on the host one try in 4096 meets another guest's.
	cidTries = 64
)

// vhost is a Host on the kernel's vhost-vsock.
type vhost struct {
	file *os.File // holds the CID for as long as it is open anywhere
	cid  uint32

	mu        sync.Mutex // guards the fields below
	closed    bool
	conns     map[*vhostConn]struct{}
	listeners map[uint32]*vhostListener
}

func openVhost(ctx context.Context) (Host, error) {
	file, err := os.OpenFile(vhostPath, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open vhost-vsock: %w", err)
	}
	cid, err := claimCID(ctx, func(cid uint64) error { return ioctlSetCID(file, cid) })
	if err == nil {
		err = probeSockets()
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("%s: %w", vhostPath, err)
	}
	return &vhost{
		file: file, cid: cid,
		conns: make(map[*vhostConn]struct{}), listeners: make(map[uint32]*vhostListener),
	}, nil
}

// claimCID gives a free CID to an open vhost device. The kernel itself refuses
// one that is taken, so there is no race.
func claimCID(ctx context.Context, set func(uint64) error) (uint32, error) {
	for range cidTries {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		var raw [4]byte
		if _, err := rand.Read(raw[:]); err != nil {
			return 0, fmt.Errorf("random CID: %w", err)
		}
		cid := firstCID + binary.NativeEndian.Uint32(raw[:])%(anyCID-firstCID)
		err := set(uint64(cid))
		if err == nil {
			return cid, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return 0, fmt.Errorf("set CID %d: %w", cid, err)
		}
	}
	return 0, fmt.Errorf("no free CID in %d tries: %w", cidTries, unix.EADDRINUSE)
}

func ioctlSetCID(file *os.File, cid uint64) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, setGuestCID, uintptr(unsafe.Pointer(&cid)))
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}

// probeSockets checks that this process may use AF_VSOCK sockets.
func probeSockets() error {
	l, err := vsock.ListenContextID(vsock.Host, 0, nil)
	if err != nil {
		return err
	}
	return l.Close()
}

func (v *vhost) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := vsock.DialContext(ctx, v.cid, port, nil)
	if err != nil {
		return nil, err
	}
	return v.track(conn, "dial")
}

// Listen listens on a port that the kernel chooses: those of the host are
// shared with every other supervisor.
func (v *vhost) Listen(port uint32) (net.Listener, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var err error
	switch {
	case v.closed:
		err = net.ErrClosed
	case v.listeners[port] != nil:
		err = syscall.EADDRINUSE
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "vsock", Addr: &vsock.Addr{ContextID: vsock.Host, Port: port}, Err: err}
	}
	inner, err := vsock.ListenContextID(vsock.Host, 0, nil)
	if err != nil {
		return nil, err
	}
	l := &vhostListener{Listener: inner, host: v, port: port}
	v.listeners[port] = l
	return l, nil
}

func (v *vhost) Device() *hypervisor.Vsock {
	return &hypervisor.Vsock{ID: DeviceID, CID: v.cid, Vhost: v.file}
}

func (v *vhost) Kind() string { return string(ModeVhost) }

func (v *vhost) Helper() *child.Helper { return nil }

func (v *vhost) Close() error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil
	}
	v.closed = true
	conns, listeners := v.conns, v.listeners
	v.conns, v.listeners = nil, nil
	v.mu.Unlock()
	var err error
	for _, l := range listeners {
		err = errors.Join(err, l.Listener.Close())
	}
	for c := range conns {
		err = errors.Join(err, c.Conn.Close())
	}
	return errors.Join(err, v.file.Close())
}

// track makes conn end with the Host.
func (v *vhost) track(conn *vsock.Conn, op string) (net.Conn, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		_ = conn.Close()
		return nil, &net.OpError{Op: op, Net: "vsock", Addr: conn.RemoteAddr(), Err: net.ErrClosed}
	}
	c := &vhostConn{Conn: conn, host: v}
	v.conns[c] = struct{}{}
	return c, nil
}

// vhostConn is a connection that its Host knows of.
type vhostConn struct {
	*vsock.Conn
	host *vhost
}

func (c *vhostConn) Close() error {
	c.host.mu.Lock()
	delete(c.host.conns, c)
	c.host.mu.Unlock()
	return c.Conn.Close()
}

// vhostListener takes the connections of one guest.
type vhostListener struct {
	*vsock.Listener
	host *vhost
	port uint32
}

// Addr has the port that the kernel chose.
func (l *vhostListener) Addr() net.Addr {
	chosen, ok := l.Listener.Addr().(*vsock.Addr)
	if !ok {
		return l.Listener.Addr()
	}
	return hypervisor.VsockAddr{CID: chosen.ContextID, Port: chosen.Port}
}

// Accept closes connections of other guests, and of the host itself, unread.
func (l *vhostListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil && l.closed() && !errors.Is(err, net.ErrClosed) {
			// The library says EBADF of a listener that was closed before.
			err = &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
		}
		if err != nil {
			return nil, err
		}
		vconn, ok := conn.(*vsock.Conn)
		if addr, isAddr := conn.RemoteAddr().(*vsock.Addr); ok && isAddr && addr.ContextID == l.host.cid {
			return l.host.track(vconn, "accept")
		}
		_ = conn.Close()
	}
}

// closed tells whether the listener, or its Host, was closed.
func (l *vhostListener) closed() bool {
	l.host.mu.Lock()
	defer l.host.mu.Unlock()
	return l.host.listeners[l.port] != l
}

func (l *vhostListener) Close() error {
	l.host.mu.Lock()
	if l.host.listeners[l.port] == l {
		delete(l.host.listeners, l.port)
	}
	l.host.mu.Unlock()
	return l.Listener.Close()
}
