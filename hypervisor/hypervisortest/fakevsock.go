package hypervisortest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"kata-runtime/hypervisor"
)

// direction says who accepts a connection.
type direction int

const (
	towardsGuest direction = iota
	towardsHost
)

// endpoint is where one side listens.
type endpoint struct {
	direction direction
	port      uint32
}

// fakeVsock holds what must be closed at the VM's end. Fake.mu guards it.
type fakeVsock struct {
	listeners map[endpoint]*fakeListener
	conns     map[*fakeConn]struct{}
}

func newFakeVsock() fakeVsock {
	return fakeVsock{listeners: make(map[endpoint]*fakeListener), conns: make(map[*fakeConn]struct{})}
}

// drain returns all that is open, in no order.
func (v *fakeVsock) drain() []io.Closer {
	var all []io.Closer
	for _, l := range v.listeners {
		all = append(all, l)
	}
	for c := range v.conns {
		all = append(all, c)
	}
	return all
}

func (f *Fake) listen(towards direction, port uint32) (net.Listener, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == hypervisor.StateEnded {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, hypervisor.ErrEnded)
	}
	at := endpoint{towards, port}
	if f.vsock.listeners[at] != nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, syscall.EADDRINUSE)
	}
	l := &fakeListener{vm: f, at: at, incoming: make(chan net.Conn), closed: make(chan struct{})}
	f.vsock.listeners[at] = l
	return l, nil
}

// connect makes a connection and hands the other end to the listener.
func (f *Fake) connect(ctx context.Context, towards direction, port uint32) (net.Conn, error) {
	f.mu.Lock()
	l := f.vsock.listeners[endpoint{towards, port}]
	ended := f.state == hypervisor.StateEnded
	f.mu.Unlock()
	switch {
	case ended:
		return nil, fmt.Errorf("dial vsock port %d: %w", port, hypervisor.ErrEnded)
	case l == nil:
		return nil, fmt.Errorf("dial vsock port %d: %w", port, syscall.ECONNRESET)
	}
	near, far, err := f.pair()
	if err != nil {
		return nil, err
	}
	select {
	case l.incoming <- far:
		return near, nil
	case <-l.closed:
		err = syscall.ECONNRESET
	case <-ctx.Done():
		err = ctx.Err()
	}
	_ = near.Close()
	_ = far.Close()
	return nil, fmt.Errorf("dial vsock port %d: %w", port, err)
}

// pair returns a connection's ends, which end with the VM. They are sockets, not
// net.Pipe, because a vsock connection has a buffer and can be half closed.
func (f *Fake) pair() (near, far *fakeConn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a fake vsock connection: %w", err)
	}
	var ends [2]*fakeConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "fake vsock")
		conn, fileErr := net.FileConn(file)
		_ = file.Close()
		if fileErr != nil {
			return nil, nil, fmt.Errorf("make a fake vsock connection: %w", fileErr)
		}
		ends[i] = &fakeConn{UnixConn: conn.(*net.UnixConn), vm: f} //nolint:forcetypeassert // it is a unix socket
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == hypervisor.StateEnded {
		_ = ends[0].UnixConn.Close()
		_ = ends[1].UnixConn.Close()
		return nil, nil, fmt.Errorf("make a fake vsock connection: %w", hypervisor.ErrEnded)
	}
	f.vsock.conns[ends[0]], f.vsock.conns[ends[1]] = struct{}{}, struct{}{}
	return ends[0], ends[1], nil
}

// fakeConn is one end of a connection.
type fakeConn struct {
	*net.UnixConn
	vm *Fake
}

// Close closes this end.
func (c *fakeConn) Close() error {
	c.vm.mu.Lock()
	delete(c.vm.vsock.conns, c)
	c.vm.mu.Unlock()
	return c.UnixConn.Close()
}

// fakeListener is a net.Listener of either side.
type fakeListener struct {
	vm       *Fake
	at       endpoint
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

// Accept waits for a connection.
func (l *fakeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.incoming:
		return conn, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close stops listening. Idempotent.
func (l *fakeListener) Close() error {
	l.once.Do(func() {
		l.vm.mu.Lock()
		delete(l.vm.vsock.listeners, l.at)
		l.vm.mu.Unlock()
		close(l.closed)
	})
	return nil
}

// Addr names the port, which the guest dials.
func (l *fakeListener) Addr() net.Addr { return hypervisor.VsockAddr{Port: l.at.port} }
