package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Of ttrpc's wire format: each message has a header of ten bytes, its length
// and its stream in four each, its type and flags.
const (
	frameHeader   = 10
	maxFrame      = 4 << 20 // ttrpc's own bound on a message
	frameResponse = 2
	frameData     = 3
)

// ErrMalformed says that the guest sent what no agent sends. It ends the
// connection.
var ErrMalformed = errors.New("the guest sent something else than ttrpc answers")

// checkedConn is a connection that fails at the first message that cannot be an
// agent's. ttrpc itself skips such messages, up to four gigabytes at a time,
// and goes on to wait for the answer.
type checkedConn struct {
	net.Conn

	// What follows belongs to the one reader.
	header  []byte // read so far of a header
	payload int    // bytes to come until the next header

	mu     sync.Mutex // guards failed
	failed error
}

// failure is the ErrMalformed that ended the connection, or nil.
func (c *checkedConn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// Read implements net.Conn.
func (c *checkedConn) Read(p []byte) (int, error) {
	if err := c.failure(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if failed := c.check(p[:n]); failed != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed = failed
		return 0, failed
	}
	return n, err
}

// check follows the messages in what was read.
func (c *checkedConn) check(data []byte) error {
	for len(data) > 0 {
		if c.payload > 0 {
			n := min(c.payload, len(data))
			c.payload -= n
			data = data[n:]
			continue
		}
		n := min(frameHeader-len(c.header), len(data))
		c.header = append(c.header, data[:n]...)
		data = data[n:]
		if len(c.header) < frameHeader {
			return nil
		}
		length, stream, kind := binary.BigEndian.Uint32(c.header), binary.BigEndian.Uint32(c.header[4:]), c.header[8]
		if length > maxFrame || stream%2 == 0 || kind != frameResponse && kind != frameData {
			return fmt.Errorf("%w: a message of %d bytes, type %d, on stream %d", ErrMalformed, length, kind, stream)
		}
		c.header, c.payload = c.header[:0], int(length)
	}
	return nil
}
