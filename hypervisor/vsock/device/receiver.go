package device

import (
	"errors"
	"fmt"
	"sync"

	"kata-runtime/hypervisor/virtio/guestmem"
	"kata-runtime/hypervisor/virtio/vhostuser"
	"kata-runtime/hypervisor/virtio/virtqueue"
)

// receiver empties the guest's transmit queue.
type receiver struct {
	mu    sync.Mutex // guards the fields below
	ring  *vhostuser.Ring
	chain virtqueue.Chain
}

// attach gives the receiver a queue, or takes it away. It waits until the
// present one is not in use.
func (r *receiver) attach(ring *vhostuser.Ring) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring = ring
}

// receive takes packets until there are none left.
func (d *Device) receive() {
	for {
		more, err := d.receiveBatch()
		if err != nil {
			d.broken(fmt.Errorf("transmit queue: %w", err))
			return
		}
		d.flush()
		if !more {
			return
		}
	}
}

// receiveBatch takes some packets and reports whether there may be more. The
// queue can be stopped between two batches.
func (d *Device) receiveBatch() (more bool, err error) {
	r := &d.receiver
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ring == nil {
		return false, nil
	}
	err = guestmem.Guard(func() (err error) {
		more, err = d.takePackets(r)
		return err
	})
	if err != nil {
		r.ring = nil
	}
	return more, err
}

func (d *Device) takePackets(r *receiver) (more bool, err error) {
	r.ring.RefuseNotify()
	for range publishEvery {
		ok, err := r.ring.Pop(&r.chain)
		if err != nil {
			return false, err
		}
		if !ok {
			r.publish()
			return r.ring.WantNotify()
		}
		if err := d.takePacket(&r.chain); err != nil {
			return false, err
		}
		r.ring.Push(&r.chain, 0)
	}
	r.publish()
	return true, nil
}

func (r *receiver) publish() {
	if r.ring.Publish() {
		r.ring.Call()
	}
}

// takePacket takes one packet from guest memory. It returns an error for those
// that no driver sends, whatever its users do.
func (d *Device) takePacket(chain *virtqueue.Chain) error {
	if len(chain.Writable) > 0 {
		return errors.New("packet is writable")
	}
	var raw [headerSize]byte
	if virtqueue.CopyOut(raw[:], chain.Readable, 0) != headerSize {
		return errors.New("packet is shorter than its header")
	}
	h := decodeHeader(&raw)
	if h.length > maxData || int(h.length) > virtqueue.Size(chain.Readable)-headerSize {
		return fmt.Errorf("packet claims %d bytes of data in buffers of %d", h.length, virtqueue.Size(chain.Readable))
	}
	if h.srcCID != uint64(d.cid) || h.dstCID != hostCID {
		// A program in the guest can ask for any address. Nobody is there to
		// answer for it.
		return nil
	}
	c := d.find(key{local: h.dstPort, remote: h.srcPort})
	switch {
	case h.kind != typeStream:
		d.refuse(h)
	case c == nil && h.op == opRequest:
		d.accept(h)
	case c == nil:
		d.refuse(h)
	default:
		d.dispatch(c, h, chain)
	}
	return nil
}

// refuse answers a packet of no connection with a reset. Resets themselves have
// no answer.
func (d *Device) refuse(h header) {
	if h.op == opReset {
		return
	}
	d.sender.mu.Lock()
	defer d.sender.mu.Unlock()
	d.sender.reply(reply{local: h.dstPort, remote: h.srcPort, kind: h.kind, op: opReset})
}

// accept takes a connection request of the guest, or refuses it.
func (d *Device) accept(h header) {
	c := d.newAccepted(h)
	if c == nil {
		d.refuse(h)
		return
	}
	d.sender.mu.Lock()
	defer d.sender.mu.Unlock()
	d.sender.resume(c)
}

// newAccepted returns a new connection in its listener's backlog, or nil.
func (d *Device) newAccepted(h header) *Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.listeners[h.dstPort]
	if l == nil || len(l.queue) == cap(l.queue) || !d.take(firstWindow+connOverhead) {
		return nil
	}
	c := newConn(d, key{local: h.dstPort, remote: h.srcPort})
	c.establish()
	c.peer.store(h)
	// From the start on, so that nothing its acceptor sends goes first.
	c.known, c.todo = true, todoResponse
	d.conns[c.key] = c
	l.queue <- c // has room: only this lock's holder adds to it
	return c
}

// dispatch handles a packet of a connection.
func (d *Device) dispatch(c *Conn, h header, chain *virtqueue.Chain) {
	c.peer.store(h)
	if c.starved.Load() {
		d.sender.mu.Lock()
		d.sender.resume(c)
		d.sender.mu.Unlock()
	}
	if err := d.operate(c, h, chain); err != nil {
		d.remove(c, err, &reply{op: opReset})
	}
}

// operate carries out a packet's operation. An error resets the connection.
func (d *Device) operate(c *Conn, h header, chain *virtqueue.Chain) error {
	switch {
	case h.op == opReset:
		d.peerReset(c)
		return nil
	case h.op == opResponse && !c.isEstablished():
		c.establish()
		return nil
	case !c.isEstablished():
		return fmt.Errorf("packet with operation %d before the response: %w", h.op, errProtocol)
	case h.op == opData:
		passed, err := c.deliver(chain, int(h.length))
		if passed > 0 && c.count(passed) {
			d.sender.mu.Lock()
			defer d.sender.mu.Unlock()
			d.sender.do(c, todoCredit)
		}
		return err
	case h.op == opShutdown:
		d.peerShutdown(c, h.flags)
		return nil
	case h.op == opCreditUpdate:
		return nil
	case h.op == opCreditRequest:
		d.sender.mu.Lock()
		defer d.sender.mu.Unlock()
		d.sender.do(c, todoCredit)
		return nil
	default:
		return fmt.Errorf("packet with operation %d: %w", h.op, errProtocol)
	}
}

// peerReset handles the end of a connection. If the host has closed both
// directions it is what was asked for.
func (d *Device) peerReset(c *Conn) {
	d.sender.mu.Lock()
	asked := c.shut == shutBoth
	d.sender.mu.Unlock()
	if asked {
		c.endOfData()
	}
	d.remove(c, c.resetError(), nil)
}

// peerShutdown handles what the guest will not do any more. Both together close
// the connection, which the guest wants confirmed; what it sent before stays
// readable.
func (d *Device) peerShutdown(c *Conn, flags uint32) {
	if flags&shutSend != 0 {
		c.endOfData()
	}
	d.sender.mu.Lock()
	c.peerShut |= flags & shutBoth
	both := c.peerShut == shutBoth
	if c.peerShut&shutReceive != 0 {
		c.failSend(errPeerShut)
	}
	d.sender.mu.Unlock()
	if both {
		d.remove(c, errPeerShut, &reply{op: opReset})
	}
}
