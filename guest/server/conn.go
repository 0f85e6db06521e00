package server

import (
	"errors"
	"io"
	"net"
	"sync"
)

// sessionConn is a connection of the host that ends its listener with it.
type sessionConn struct {
	net.Conn
	listener *connListener
	once     sync.Once
	closed   chan struct{}
}

func newSessionConn(conn net.Conn) *sessionConn {
	c := &sessionConn{Conn: conn, closed: make(chan struct{})}
	c.listener = &connListener{conn: c, first: make(chan net.Conn, 1), closed: make(chan struct{})}
	c.listener.first <- c
	return c
}

// Read ends regularly when the agent itself closed the connection.
func (c *sessionConn) Read(buffer []byte) (int, error) {
	n, err := c.Conn.Read(buffer)
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// Close ends the session's listener too. It may be called more than once.
func (c *sessionConn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.closed)
		err = errors.Join(c.Conn.Close(), c.listener.Close())
	})
	return err
}

// connListener is a listener that returns one connection, and ends with it.
type connListener struct {
	conn   net.Conn
	first  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Accept returns the connection once, and net.ErrClosed when the listener has
// ended.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.first:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the listener; the connection lives on.
func (l *connListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns the address that the connection arrived at.
func (l *connListener) Addr() net.Addr { return l.conn.LocalAddr() }
