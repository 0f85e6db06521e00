package device

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// Write implements net.Conn. It returns when the guest has been given all of p,
// the guest's credit and receive buffers allowing.
func (c *Conn) Write(p []byte) (int, error) {
	c.writeLock.Lock()
	defer c.writeLock.Unlock()
	if c.writeDeadline.isReached() {
		return 0, c.opError("write", os.ErrDeadlineExceeded)
	}
	c.d.send(func(s *sender) {
		c.out = p
		s.resume(c)
	})
	for {
		left, err := c.progress(len(p), c.writeDeadline.isReached())
		if left == 0 || err != nil {
			return len(p) - left, c.opError("write", err)
		}
		select {
		case <-c.writable:
		case <-c.writeDeadline.wait():
		}
	}
}

// ReadAllFrom writes what comes from a socket, until its end, which is no error. It
// has a buffer only while there is something to copy.
func (c *Conn) ReadAllFrom(socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	much := false
	for {
		n, err := c.readPiece(raw, &much)
		if n == 0 || err != nil {
			return err
		}
	}
}

// readPiece writes one piece of what comes from a socket, and reports 0 at its end.
// If there was much the last time, the piece may be larger: the fewer they are, the
// less often the guest is interrupted.
func (c *Conn) readPiece(raw syscall.RawConn, much *bool) (int, error) {
	var n int
	var failed error
	var buffer []byte
	release := func() {}
	err := raw.Read(func(fd uintptr) bool {
		buffer, release = c.d.buffer(*much)
		n, failed = receiveFrom(int(fd), buffer)
		if errors.Is(failed, syscall.EAGAIN) {
			release()
			release = func() {}
			*much = false
			return false
		}
		return true
	})
	defer func() { release() }()
	if err := errors.Join(err, failed); err != nil || n == 0 {
		return 0, err
	}
	*much = n >= chunkSize
	return c.Write(buffer[:n])
}

const (
	// largePiece is what is written at once where there is much, largePieces how many
	// connections may do so at the same time.
	largePiece  = 256 << 10
	largePieces = 4
)

// buffer returns a buffer and what gives it back. A large one may not be left.
func (d *Device) buffer(large bool) ([]byte, func()) {
	if large {
		select {
		case b := <-d.large:
			if b == nil {
				b = make([]byte, largePiece)
			}
			return b, func() { d.large <- b } // has room: it came from there
		default:
		}
	}
	b := d.chunks.get()
	return b.data[:], func() { d.chunks.put(b) }
}

// receiveFrom reads from a socket without waiting.
func receiveFrom(fd int, p []byte) (int, error) {
	for {
		n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_DONTWAIT)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// SendEnded is closed when the guest takes no more data, or the connection is over.
func (c *Conn) SendEnded() <-chan struct{} { return c.sendEnded }

// progress returns how much the writer has left to send, and takes it back if
// it cannot be sent, or in time.
func (c *Conn) progress(size int, late bool) (int, error) {
	s := &c.d.sender
	s.mu.Lock()
	defer s.mu.Unlock()
	left, err := len(c.out), c.sendErr
	if left == 0 && size > 0 {
		c.out = nil
		return 0, nil
	}
	if err == nil && late {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		c.out = nil
		c.starved.Store(false)
		if !c.wantsToSend() {
			s.active.remove(c)
		}
	}
	return left, err
}

// resume lets a connection send its data as far as it has credit. The caller
// holds mu.
func (s *sender) resume(c *Conn) {
	if c.wantsToSend() {
		s.active.pushBack(c)
	}
}

// wantsToSend says whether there is something to send now. If it is credit that
// is missing, starved is set. The caller holds sender.mu.
func (c *Conn) wantsToSend() bool {
	if c.detached {
		return false
	}
	if c.todo != 0 {
		return true
	}
	if len(c.out) == 0 || c.sendErr != nil {
		return false
	}
	c.starved.Store(true)
	if c.peer.free(c.sent) == 0 {
		return false
	}
	c.starved.Store(false)
	return true
}

// nextPacket takes the next packet with at most space bytes of data. The caller
// holds sender.mu; wantsToSend was true.
func (c *Conn) nextPacket(space int) (header, []byte) {
	h := header{srcPort: c.key.local, dstPort: c.key.remote, kind: typeStream}
	var data []byte
	switch {
	case c.todo&todoRequest != 0:
		h.op, c.known = opRequest, true
		c.todo &^= todoRequest
	case c.todo&todoResponse != 0:
		h.op = opResponse
		c.todo &^= todoResponse
	case c.todo&todoShutdown != 0:
		h.op, h.flags = opShutdown, c.shut
		c.todo &^= todoShutdown
	default:
		data = c.takeData(space)
		if h.op = opData; len(data) == 0 {
			h.op = opCreditUpdate
		}
	}
	// Every packet carries the credit. Under the sender's lock it is read in the
	// order in which the guest sees it: it must not seem to go back.
	h.fwdCnt, h.bufAlloc = c.taken.Load(), c.window.Load()
	c.edge.Store(h.fwdCnt + h.bufAlloc)
	c.todo &^= todoCredit
	return h, data
}

func (c *Conn) takeData(space int) []byte {
	if c.sendErr != nil {
		return nil
	}
	n := min(space, maxData, len(c.out), c.peer.free(c.sent))
	data := c.out[:n:n]
	c.out = c.out[n:]
	c.sent += uint32(n)
	if len(c.out) == 0 && n > 0 {
		wake(c.writable)
	}
	return data
}

// failSend ends the sending of data with err. The caller holds sender.mu.
func (c *Conn) failSend(err error) {
	if c.sendErr == nil {
		c.sendErr = err
		close(c.sendEnded)
	}
	wake(c.writable)
}

// closeSend makes later writes return net.ErrClosed, whatever ended the sending
// before. The caller holds sender.mu.
func (c *Conn) closeSend() {
	c.failSend(net.ErrClosed)
	c.sendErr = net.ErrClosed
	wake(c.writable)
}
