package device

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.readLock.Lock()
	defer c.readLock.Unlock()
	n := 0
	for n < len(p) || len(p) == 0 {
		chunk, err := c.fetch(n == 0 && len(p) > 0)
		if err != nil && n == 0 {
			return 0, c.opError("read", err)
		}
		if chunk == nil || err != nil {
			break
		}
		copied := copy(p[n:], chunk.bytes())
		chunk.from += copied
		n += copied
		if len(p) == 0 {
			break
		}
	}
	c.took(n)
	return n, nil
}

// CopyTo is WriteTo for a stream socket. While the socket takes them, bytes go there
// out of the guest's memory, without a stop.
func (c *Conn) CopyTo(socket interface {
	io.Writer
	syscall.Conn
},
) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	c.setDirect(raw)
	defer c.setDirect(nil)
	_, err = c.WriteTo(socket)
	return err
}

func (c *Conn) setDirect(raw syscall.RawConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.direct, c.idle = raw, false
}

// WriteTo implements io.WriterTo. It returns nil at the end of what the guest sends.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	c.readLock.Lock()
	defer c.readLock.Unlock()
	var total int64
	for {
		chunk, err := c.fetch(true)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, c.opError("read", err)
		}
		n, err := w.Write(chunk.bytes())
		chunk.from += n
		total += int64(n)
		c.took(n)
		if err != nil {
			return total, err
		}
	}
}

// fetch returns the chunk to read from, which has data. If there is no data it
// waits, or returns nil. The caller holds readLock.
func (c *Conn) fetch(wait bool) (*chunk, error) {
	for {
		if c.readDeadline.isReached() {
			return nil, os.ErrDeadlineExceeded
		}
		if next, err := c.nextChunk(); next != nil || err != nil {
			return next, err
		}
		if !wait {
			return nil, nil
		}
		select {
		case <-c.readable:
		case <-c.readDeadline.wait():
		}
	}
}

func (c *Conn) nextChunk() (*chunk, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		c.recycle()
		return nil, net.ErrClosed
	}
	if c.reading != nil && c.reading.from < c.reading.to {
		return c.reading, nil
	}
	c.recycle()
	c.reading = c.data.pop()
	c.idle = c.reading == nil
	switch {
	case c.reading != nil:
		return c.reading, nil
	case c.eof:
		return nil, io.EOF
	default:
		return nil, c.recvErr
	}
}

// recycle gives back the chunk that was read last.
func (c *Conn) recycle() {
	if c.reading != nil {
		c.d.chunks.put(c.reading)
		c.reading = nil
	}
}

// took tells the guest, when it is worth a packet, that n bytes were read.
func (c *Conn) took(n int) {
	if n > 0 && c.count(n) {
		c.d.send(func(s *sender) { s.do(c, todoCredit) })
	}
}

// count counts n bytes as read and reports whether the guest should be told.
func (c *Conn) count(n int) bool {
	window := c.window.Load()
	edge := c.taken.Add(uint32(n)) + window
	// What the guest does not know to be free yet. It can wait as long as three
	// quarters of the window are left for it to fill.
	if edge-c.edge.Load() < window/4 {
		return false
	}
	c.grow(window)
	return true
}

// grow doubles the window if the guest has used up, or nearly, what it was
// granted although the reader keeps up.
func (c *Conn) grow(window uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	free := c.edge.Load() - c.received
	if window >= maxWindow || free > window/4 || c.closed || !c.d.take(int64(window)) {
		return
	}
	c.window.Store(2 * window)
}
