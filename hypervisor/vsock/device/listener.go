package device

import (
	"net"
	"sync"
)

var _ net.Listener = (*Listener)(nil)

// Listener takes connections that the guest makes to one port.
type Listener struct {
	d     *Device
	port  uint32
	queue chan *Conn

	once sync.Once
	err  error         // why it ended; set before done is closed
	done chan struct{} // closed when the listener has ended
}

func newListener(d *Device, port uint32) *Listener {
	return &Listener{d: d, port: port, queue: make(chan *Conn, backlog), done: make(chan struct{})}
}

// Accept implements net.Listener. After Close, and after the end of the device,
// its error wraps net.ErrClosed; in the latter case the reason of the end, too.
// The connection's dynamic type is *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptConn is Accept with a result of the dynamic type.
func (l *Listener) AcceptConn() (*Conn, error) {
	select {
	case <-l.done:
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: network, Addr: l.Addr(), Err: l.err}
}

// Addr returns the address that is listened on, a *vsock.Addr.
func (l *Listener) Addr() net.Addr { return hostAddress(l.port) }

// Close frees the port and resets the connections that nobody has accepted. It
// is idempotent.
func (l *Listener) Close() error {
	l.d.mu.Lock()
	if l.d.listeners[l.port] == l {
		delete(l.d.listeners, l.port)
	}
	l.d.mu.Unlock()
	l.end(net.ErrClosed)
	return nil
}

// end makes Accept return err. Nothing adds to the queue any more.
func (l *Listener) end(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
	})
	for {
		select {
		case c := <-l.queue:
			_ = c.Close()
		default:
			return
		}
	}
}
