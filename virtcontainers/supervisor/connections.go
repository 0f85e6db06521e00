package supervisor

import (
	"context"
	"net"
	"sync"
)

// connections is a listener that knows which of its connections are open.
// ttrpc's own graceful shutdown takes a connection for idle whose call has just
// begun, and polls; here the end is that of the commands' connections, and each
// command closes its own when it has its answer.
type connections struct {
	net.Listener

	mu   sync.Mutex // guards open and none
	open int
	none chan struct{} // closed when open is 0
}

func newConnections(listener net.Listener) *connections {
	none := make(chan struct{})
	close(none)
	return &connections{Listener: listener, none: none}
}

// Accept implements net.Listener.
func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == 0 {
		c.none = make(chan struct{})
	}
	c.open++
	return &connection{Conn: conn, owner: c}, nil
}

// drain waits until no connection is open, or ctx ends.
func (c *connections) drain(ctx context.Context) {
	c.mu.Lock()
	none := c.none
	c.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}

type connection struct {
	net.Conn

	owner *connections
	once  sync.Once
}

// Close implements net.Conn.
func (c *connection) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.owner.mu.Lock()
		defer c.owner.mu.Unlock()
		if c.owner.open--; c.owner.open == 0 {
			close(c.owner.none)
		}
	})
	return err
}
