package shim

import (
	"context"
	"net"
	"sync"
	"time"
)

// connections is a listener that knows how many of its connections are open.
type connections struct {
	net.Listener

	deserted func() // called when the last was closed

	mu   sync.Mutex
	open int
	none chan struct{} // closed when the last is; nil: nobody waits
}

// Accept implements net.Listener.
func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	return &connection{Conn: conn, closed: sync.OnceFunc(c.left)}, nil
}

func (c *connections) left() {
	c.mu.Lock()
	c.open--
	last := c.open == 0
	if last && c.none != nil {
		close(c.none)
		c.none = nil
	}
	c.mu.Unlock()
	if last {
		c.deserted()
	}
}

// await waits until the others have closed all connections, for a while. A client
// of ttrpc whose connection ends may drop an answer that it has received.
func (c *connections) await(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c.mu.Lock()
	none := make(chan struct{})
	if c.open == 0 {
		close(none)
	} else {
		c.none = none
	}
	c.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}

type connection struct {
	net.Conn

	closed func()
}

// Close implements net.Conn.
func (c *connection) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
