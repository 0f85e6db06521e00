package device

import (
	"errors"
	"sync"

	"kata-runtime/hypervisor/virtio/guestmem"
	"kata-runtime/hypervisor/virtio/vhostuser"
	"kata-runtime/hypervisor/virtio/virtqueue"
)

const (
	// publishEvery is after how many packets at the latest the other side sees
	// them: it can work on the first while the rest are being copied.
	publishEvery = 32
	// flushAtOnce is how many packets are sent before others may have the lock.
	flushAtOnce = 256
	// maxReplies bounds the replies that wait for receive buffers.
	maxReplies = 16 << 10
)

// todo is what a connection has to send besides data.
type todo uint8

const (
	todoRequest todo = 1 << iota
	todoResponse
	todoShutdown
	todoCredit
)

// reply is a packet of a connection that exists no longer, or never did.
type reply struct {
	local, remote    uint32
	kind, op         uint16
	flags            uint32
	bufAlloc, fwdCnt uint32
}

// replyQueue is a queue of at most maxReplies. What is beyond is dropped: it
// takes a guest that floods the host with requests while it takes no packets to
// get there, and a request without an answer times out.
type replyQueue struct {
	queue []reply
	head  int
}

func (q *replyQueue) empty() bool { return q.head == len(q.queue) }

func (q *replyQueue) push(r reply) {
	if len(q.queue)-q.head >= maxReplies {
		return
	}
	if q.head > 0 && len(q.queue) == cap(q.queue) {
		q.queue = q.queue[:copy(q.queue, q.queue[q.head:])]
		q.head = 0
	}
	q.queue = append(q.queue, r)
}

func (q *replyQueue) pop() reply {
	r := q.queue[q.head]
	q.head++
	if q.empty() {
		q.clear()
	}
	return r
}

func (q *replyQueue) clear() { q.queue, q.head = q.queue[:0], 0 }

// sender fills the guest's receive queue. It takes turns among the connections
// that have something to send, one packet each.
type sender struct {
	mu      sync.Mutex // guards the fields below and the sending half of every Conn
	ring    *vhostuser.Ring
	chain   virtqueue.Chain
	active  list
	replies replyQueue
}

// attach gives the sender a queue, or takes it away. It waits until the present
// one is not in use.
func (s *sender) attach(ring *vhostuser.Ring) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = ring
}

func (s *sender) idle() bool { return s.active.head == nil && s.replies.empty() }

// do gives a connection something to do.
func (s *sender) do(c *Conn, what todo) {
	if c.detached {
		return
	}
	c.todo |= what
	s.active.pushBack(c)
}

// reply queues a packet that belongs to no connection.
func (s *sender) reply(r reply) { s.replies.push(r) }

// detach ends the sending half of a connection with err.
func (s *sender) detach(c *Conn, err error) {
	c.detached, c.todo = true, 0
	s.active.remove(c)
	c.failSend(err)
}

// flush sends what there is to send and buffers for. It reports more when it
// stopped to let others have the lock. After an error the queue is not to be
// used any more. The caller holds mu.
func (s *sender) flush(cid uint32) (more bool, err error) {
	if s.ring == nil || s.idle() {
		return false, nil
	}
	err = guestmem.Guard(func() (err error) {
		more, err = s.drain(cid)
		return err
	})
	if err != nil {
		s.ring = nil
	}
	return more, err
}

func (s *sender) drain(cid uint32) (more bool, err error) {
	for sent := 0; !s.idle(); {
		if sent == flushAtOnce {
			s.publish()
			return true, nil
		}
		ok, err := s.ring.Pop(&s.chain)
		if err != nil {
			return false, err
		}
		if !ok {
			s.publish()
			if more, err := s.ring.WantNotify(); err != nil || !more {
				return false, err
			}
			continue
		}
		n, err := s.fill(cid)
		if err != nil {
			return false, err
		}
		s.ring.Push(&s.chain, uint32(n))
		if sent++; sent%publishEvery == 0 {
			s.publish()
		}
	}
	s.publish()
	s.ring.RefuseNotify()
	return false, nil
}

func (s *sender) publish() {
	if s.ring.Publish() {
		s.ring.Call()
	}
}

// fill writes the next packet into the present chain and returns its size.
func (s *sender) fill(cid uint32) (int, error) {
	if len(s.chain.Readable) > 0 {
		return 0, errors.New("buffer for the device to fill is not writable")
	}
	space := virtqueue.Size(s.chain.Writable) - headerSize
	if space < 0 {
		return 0, errors.New("buffer has no room for a packet's header")
	}
	h, data := s.next(space)
	h.srcCID, h.dstCID = hostCID, uint64(cid)
	h.length = uint32(len(data))
	var raw [headerSize]byte
	h.encode(&raw)
	virtqueue.Copy(s.chain.Writable, 0, raw[:])
	virtqueue.Copy(s.chain.Writable, headerSize, data)
	return headerSize + len(data), nil
}

// next takes the next packet of at most space bytes of data. There must be one.
func (s *sender) next(space int) (header, []byte) {
	if !s.replies.empty() {
		r := s.replies.pop()
		return header{
			srcPort: r.local, dstPort: r.remote, kind: r.kind, op: r.op, flags: r.flags,
			bufAlloc: r.bufAlloc, fwdCnt: r.fwdCnt,
		}, nil
	}
	c := s.active.head
	s.active.remove(c)
	h, data := c.nextPacket(space)
	if c.wantsToSend() {
		s.active.pushBack(c)
	}
	return h, data
}
