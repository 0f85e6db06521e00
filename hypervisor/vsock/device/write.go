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
	for {
		var buffer *chunk
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			buffer = c.d.chunks.get()
			n, failed = receive(int(fd), buffer.data[:])
			if errors.Is(failed, syscall.EAGAIN) {
				c.d.chunks.put(buffer)
				return false
			}
			return true
		})
		if err := errors.Join(err, failed); err != nil {
			return err
		}
		if n > 0 {
			_, err = c.Write(buffer.data[:n])
		}
		c.d.chunks.put(buffer)
		if n == 0 || err != nil {
			return err
		}
	}
}

// receive reads from a socket without waiting.
func receive(fd int, p []byte) (int, error) {
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
