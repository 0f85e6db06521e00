package vsock

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/mdlayher/vsock"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/vsock/control"
)

const network = "vsock"

func address(cid, port uint32) net.Addr { return &vsock.Addr{ContextID: cid, Port: port} }

// userConn is a connection of a guest, by way of the process that serves its device.
// As on a socket of the kernel's vsock, a reset by the guest reads as the end of the
// stream.
type userConn struct {
	*net.UnixConn
	host          *user
	local, remote net.Addr
}

// track makes conn end with the Host.
func (u *user) track(conn *net.UnixConn, local, remote net.Addr) (*userConn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conns == nil {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	c := &userConn{UnixConn: conn, host: u, local: local, remote: remote}
	u.conns[c] = struct{}{}
	return c, nil
}

// LocalAddr returns the host's address, a *vsock.Addr.
func (c *userConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the guest's address, a *vsock.Addr.
func (c *userConn) RemoteAddr() net.Addr { return c.remote }

// Close closes both directions, unless somebody has a duplicate. What was written
// reaches the guest, what was not read is discarded.
func (c *userConn) Close() error {
	c.host.mu.Lock()
	delete(c.host.conns, c)
	c.host.mu.Unlock()
	return c.UnixConn.Close()
}

// userListener takes connections that the guest makes to one port.
type userListener struct {
	host *user
	port uint32
	// closing: Close frees the port, or has done so. Guarded by host.mu.
	closing bool

	once sync.Once
	err  error         // why it ended; set before done is closed
	done chan struct{} // closed when the listener has ended
}

// Accept implements net.Listener. After Close, and after the end of the device,
// its error wraps net.ErrClosed; in the latter case the reason of the end, too.
func (l *userListener) Accept() (net.Conn, error) {
	conn, err := l.accept()
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: network, Addr: l.Addr(), Err: err}
	}
	return conn, nil
}

func (l *userListener) accept() (*userConn, error) {
	select {
	case <-l.done:
		return nil, l.err
	default:
	}
	conn, _, answered, err := l.host.ask(context.Background(), control.Accept, l.port)
	if err != nil {
		return nil, l.reason(err)
	}
	select {
	case m, ok := <-answered:
		switch {
		case !ok:
			err = l.host.failure()
		case m.Errno != 0:
			err = m.Errno
		default:
			return l.host.track(conn, l.Addr(), address(userCID, m.Port))
		}
	case <-l.done:
		err = l.err
	}
	_ = conn.Close()
	return nil, l.reason(err)
}

// reason returns why the listener has ended, or, while it has not, what err says.
func (l *userListener) reason(err error) error {
	select {
	case <-l.done:
		return l.err
	default:
	}
	if l.host.failure() != nil {
		<-l.done // on its way
		return l.err
	}
	return fmt.Errorf("take a connection of the guest: %w", err)
}

// Addr returns the address that is listened on, which is what the guest dials.
func (l *userListener) Addr() net.Addr { return hypervisor.VsockAddr{CID: hostCID, Port: l.port} }

// Close frees the port and resets the connections that nobody has accepted. It
// is idempotent.
func (l *userListener) Close() error {
	u := l.host
	u.mu.Lock()
	frees := u.listeners[l.port] == l && !l.closing
	l.closing = true
	u.mu.Unlock()
	l.end(net.ErrClosed)
	if !frees {
		return nil
	}
	// Before the port is free for another listener.
	_ = u.send(context.Background(), control.Message{Kind: control.Unlisten, Port: l.port}, nil)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.listeners[l.port] == l {
		delete(u.listeners, l.port)
	}
	return nil
}

// end makes Accept return err.
func (l *userListener) end(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
	})
}
