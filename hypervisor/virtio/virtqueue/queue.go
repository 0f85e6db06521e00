package virtqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxSize is the largest queue, in descriptors, that the virtio specification
// allows.
const MaxSize = 1 << 15

// Feature bits of virtio that a split queue knows.
const (
	FeatureIndirect   = uint64(1) << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIndex = uint64(1) << 29 // VIRTIO_F_EVENT_IDX
)

const (
	availNoInterrupt = 1
	usedNoNotify     = 1
)

// Memory translates guest addresses. It is implemented by guestmem.Table.
type Memory interface {
	// Append appends the host's view of size bytes at guest address addr to
	// dst, in one slice or more, or returns an error if any byte of it is not
	// guest memory.
	Append(dst [][]byte, addr uint64, size uint32) ([][]byte, error)
}

// Config describes a queue.
type Config struct {
	// Size is the number of descriptors, a power of two up to MaxSize.
	Size uint16
	// Desc, Avail and Used are the parts of the ring in guest memory, of exactly
	// DescBytes, AvailBytes and UsedBytes.
	Desc, Avail, Used []byte
	// Base is the position in the available ring to begin at.
	Base uint16
	// Features holds the negotiated feature bits; those not of queues are
	// ignored.
	Features uint64
}

// Queue is the device's side of one split queue. It is not safe for concurrent
// use. After a method has returned an error, or has faulted, only Base may be
// called.
type Queue struct {
	ring     ring
	memory   Memory
	indirect bool
	events   bool

	next   uint16 // position of the next chain to take
	avail  uint16 // the driver's index as last read
	used   uint16 // position of the next used entry
	public uint16 // used index as the driver sees it
	// signalled is the used index when the driver was last asked whether it
	// wants a call, if wasAsked.
	signalled uint16
	wasAsked  bool
	parts     [][]byte
}

// New returns a queue that continues at cfg.Base, with what the ring itself
// says of used entries.
func New(memory Memory, cfg Config) (*Queue, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errors.New("virtqueues need a little-endian host")
	}
	q := &Queue{
		indirect: cfg.Features&FeatureIndirect != 0,
		events:   cfg.Features&FeatureEventIndex != 0,
		next:     cfg.Base,
		avail:    cfg.Base,
	}
	if err := q.Rebind(memory, cfg); err != nil {
		return nil, err
	}
	q.used = q.ring.usedIndex()
	q.public = q.used
	return q, nil
}

// Rebind moves the queue, with its positions, to another view of the same guest
// memory. cfg's Base and Features are ignored. On error the queue is unchanged.
func (q *Queue) Rebind(memory Memory, cfg Config) error {
	if cfg.Size == 0 || cfg.Size > MaxSize || cfg.Size&(cfg.Size-1) != 0 {
		return fmt.Errorf("queue size %d is not a power of two up to %d", cfg.Size, MaxSize)
	}
	r, err := newRing(cfg.Size, cfg.Desc, cfg.Avail, cfg.Used)
	if err != nil {
		return err
	}
	q.ring, q.memory = r, memory
	return nil
}

// Base is the position of the next chain to take: where a later queue on the
// same ring continues.
func (q *Queue) Base() uint16 { return q.next }

// Pop takes the next chain that the driver has made available. It reports false
// if there is none.
func (q *Queue) Pop(c *Chain) (bool, error) {
	if q.next == q.avail {
		more, err := q.poll()
		if err != nil || !more {
			return false, err
		}
	}
	head := q.ring.availEntry(q.next & (q.ring.size - 1))
	if head >= q.ring.size {
		return false, fmt.Errorf("driver offers descriptor %d of %d", head, q.ring.size)
	}
	if err := q.walk(c, head); err != nil {
		return false, err
	}
	q.next++
	return true, nil
}

// More says whether further chains are available.
func (q *Queue) More() (bool, error) {
	if q.next != q.avail {
		return true, nil
	}
	return q.poll()
}

// Reload fills a chain that was taken, and not returned yet, anew: for whoever
// let go of guest memory meanwhile, which may have been mapped elsewhere. The
// driver can have changed it too.
func (q *Queue) Reload(c *Chain) error { return q.walk(c, c.head) }

// poll reads the driver's index again and reports whether chains are available.
func (q *Queue) poll() (bool, error) {
	avail := q.ring.availIndex()
	if ahead := avail - q.next; ahead > q.ring.size {
		return false, fmt.Errorf("driver offers %d chains in a queue of %d", ahead, q.ring.size)
	}
	q.avail = avail
	return avail != q.next, nil
}

// Push returns a chain as used, with written bytes of its writable buffers
// filled from the start. The driver sees it after Publish.
func (q *Queue) Push(c *Chain, written uint32) {
	q.ring.setUsedEntry(q.used&(q.ring.size-1), c.head, written)
	q.used++
}

// Publish shows the driver every chain pushed so far and reports whether it
// wants to be called.
func (q *Queue) Publish() bool {
	if q.used == q.public {
		return false
	}
	q.ring.setUsedIndex(q.used)
	q.public = q.used
	if !q.events {
		return q.ring.availFlags()&availNoInterrupt == 0
	}
	before, asked := q.signalled, q.wasAsked
	q.signalled, q.wasAsked = q.used, true
	// The driver wants a call when its event index is among the entries that
	// are new since it was last asked.
	event := q.ring.usedEvent()
	return !asked || q.used-event-1 < q.used-before
}

// WantNotify asks the driver for a notification of the next chain and reports
// whether chains are available already, in which case none need come.
func (q *Queue) WantNotify() (bool, error) {
	if q.events {
		q.ring.setAvailEvent(q.next)
	} else {
		q.ring.setUsedFlags(0)
	}
	return q.poll()
}

// RefuseNotify tells the driver that no notification is wanted. With event
// indices there is nothing to do: the driver notifies once per WantNotify.
func (q *Queue) RefuseNotify() {
	if !q.events {
		q.ring.setUsedFlags(usedNoNotify)
	}
}
