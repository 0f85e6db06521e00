package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	frameHeader = 4
	// maxFrame bounds the data of a frame.
	maxFrame = 32 << 10

	endOfData = 0
	endOfWish = 0xffffffff
)

// Local is the end of a connection that is a socket of this side's kernel, as
// *net.UnixConn is.
type Local interface {
	io.ReadWriteCloser
	CloseRead() error
	CloseWrite() error
}

// Aborter is a Local that can be closed so that the program at its other end sees
// a failure, not an end.
type Aborter interface {
	Abort() error
}

// Copy copies both ways between local and the other side of the relay until
// both directions have ended, one has failed, or ctx has ended; it closes both,
// in the last two cases by Abort where local is an Aborter.
// peer is not trusted.
func Copy(ctx context.Context, local Local, peer net.Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		if aborter, ok := local.(Aborter); ok {
			_ = aborter.Abort() // there is nobody to tell
		} else {
			local.Close()
		}
		peer.Close()
	})
	c := &copying{local: local, peer: peer}
	var directions sync.WaitGroup
	for _, direction := range []func() error{c.send, c.receive} {
		directions.Go(func() {
			if err := direction(); err != nil {
				cancel(err) // the first failure is the one that counts
			}
		})
	}
	directions.Wait()
	err := context.Cause(ctx)
	if stop() {
		local.Close()
		peer.Close()
	}
	return err
}

// copying is what the two directions share.
type copying struct {
	local Local
	peer  net.Conn

	writing sync.Mutex // held while a frame is written

	// Whether the directions have ended: the local socket's output, the peer's.
	sent, received atomic.Bool
}

// data writes a frame with n bytes, which begin in buffer at frameHeader.
func (c *copying) data(buffer []byte, n int) error {
	binary.BigEndian.PutUint32(buffer, uint32(n))
	return c.write(buffer[:frameHeader+n])
}

func (c *copying) mark(meaning uint32) error {
	return c.write(binary.BigEndian.AppendUint32(nil, meaning))
}

func (c *copying) write(frame []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, err := c.peer.Write(frame); err != nil {
		return fmt.Errorf("write to the relay: %w", err)
	}
	return nil
}

// send copies from the local socket to its end.
func (c *copying) send() error {
	buffer := make([]byte, frameHeader+maxFrame)
	for {
		n, err := c.local.Read(buffer[frameHeader:])
		if n > 0 {
			if err := c.data(buffer, n); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return c.finish()
		}
		if err != nil {
			return fmt.Errorf("read from the socket: %w", err)
		}
	}
}

// finish ends the direction of send, and the waiting of receive for a word on
// it.
func (c *copying) finish() error {
	c.sent.Store(true) // before the peer knows, which then may hang up
	if err := c.mark(endOfData); err != nil {
		return err
	}
	if c.received.Load() {
		return c.peer.SetReadDeadline(time.Unix(1, 0))
	}
	return nil
}

// receive copies to the local socket until the other side says that it has
// ended, and heeds, until send has ended, what it says of the other direction.
// What the local socket does not take any more is dropped.
func (c *copying) receive() error {
	in := bufio.NewReaderSize(c.peer, frameHeader+maxFrame)
	taken := true
	for !c.received.Load() || !c.sent.Load() {
		length, err := readLength(in)
		switch {
		case err != nil && c.received.Load() && c.sent.Load():
			return nil
		case err != nil:
			return err
		case length == endOfData:
			c.received.Store(true)
			// The local socket may be gone: then there is nobody to tell.
			_ = c.local.CloseWrite()
			continue
		case length == endOfWish:
			// Ends send's reading; the program finds that it cannot write.
			_ = c.local.CloseRead()
			continue
		case length > maxFrame || c.received.Load():
			return fmt.Errorf("%w: frame of %d bytes", ErrMalformed, length)
		}
		data, err := in.Peek(int(length))
		if err != nil {
			return broken(err)
		}
		if taken {
			if _, err := c.local.Write(data); err != nil {
				taken = false
				if err := c.mark(endOfWish); err != nil {
					return err
				}
			}
		}
		_, _ = in.Discard(int(length)) // it is buffered
	}
	return nil
}

func readLength(in *bufio.Reader) (uint32, error) {
	header, err := in.Peek(frameHeader)
	if err != nil {
		return 0, broken(err)
	}
	length := binary.BigEndian.Uint32(header)
	_, _ = in.Discard(frameHeader) // it is buffered
	return length, nil
}

func broken(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read from the relay: %w", err)
}
