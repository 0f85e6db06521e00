package drivertest

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// Flags of a descriptor.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Feature bits.
const (
	FeatureIndirect   = 1 << 28
	FeatureEventIndex = 1 << 29
	FeatureProtocol   = 1 << 30
	FeatureVersion1   = 1 << 32
)

// Buffer is one buffer of a chain.
type Buffer struct {
	Addr  uint64
	Size  uint32
	Write bool // by the device
}

// Queue is the driver's side of a split virtqueue.
type Queue struct {
	Mem               *Memory
	Size              uint16
	Desc, Avail, Used uint64 // guest addresses

	events, indirect bool
	free             []uint16
	tables           map[uint16]uint64
	avail, used      uint16
	published        uint16
}

// NewQueue lays out an empty queue in memory.
func NewQueue(mem *Memory, size uint16, features uint64) *Queue {
	n := uint64(size)
	q := &Queue{
		Mem: mem, Size: size,
		Desc: mem.Alloc(16 * n), Avail: mem.Alloc(6 + 2*n), Used: mem.Alloc(6 + 8*n),
		events: features&FeatureEventIndex != 0, indirect: features&FeatureIndirect != 0,
		tables: make(map[uint16]uint64),
	}
	for i := range size {
		q.free = append(q.free, size-1-i)
	}
	return q
}

// PutDescriptor writes one descriptor of a table.
func PutDescriptor(table []byte, index uint16, addr uint64, size uint32, flags, next uint16) {
	d := table[16*int(index):]
	binary.LittleEndian.PutUint64(d, addr)
	binary.LittleEndian.PutUint32(d[8:], size)
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(d[14:], next)
}

// Room says whether a chain of n buffers fits.
func (q *Queue) Room(n int) bool {
	if q.indirect {
		n = 1
	}
	return len(q.free) >= n
}

// Add makes a chain available, to be seen after Publish, and returns its head.
func (q *Queue) Add(buffers ...Buffer) uint16 {
	if q.indirect {
		return q.addIndirect(buffers)
	}
	table := q.Mem.At(q.Desc, 16*uint64(q.Size))
	taken := q.free[len(q.free)-len(buffers):]
	q.free = q.free[:len(q.free)-len(buffers)]
	for i, b := range buffers {
		next := uint16(0)
		if i+1 < len(taken) {
			next = taken[i+1]
		}
		PutDescriptor(table, taken[i], b.Addr, b.Size, b.flags(i+1 < len(buffers)), next)
	}
	return q.Offer(taken[0])
}

func (b Buffer) flags(more bool) uint16 {
	flags := uint16(0)
	if more {
		flags |= Next
	}
	if b.Write {
		flags |= Write
	}
	return flags
}

func (q *Queue) addIndirect(buffers []Buffer) uint16 {
	head := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	const room = 8
	if q.tables[head] == 0 {
		q.tables[head] = q.Mem.Alloc(16 * room)
	}
	table := q.Mem.At(q.tables[head], 16*room)
	for i, b := range buffers {
		PutDescriptor(table, uint16(i), b.Addr, b.Size, b.flags(i+1 < len(buffers)), uint16(i+1))
	}
	PutDescriptor(q.Mem.At(q.Desc, 16*uint64(q.Size)), head, q.tables[head], uint32(16*len(buffers)), Indirect, 0)
	return q.Offer(head)
}

// Offer puts any number into the available ring as a chain's head.
func (q *Queue) Offer(head uint16) uint16 {
	slot := uint64(q.avail % q.Size)
	binary.LittleEndian.PutUint16(q.Mem.At(q.Avail+4+2*slot, 2), head)
	q.avail++
	return head
}

// Publish lets the device see what was added and says whether it wants to be
// notified.
func (q *Queue) Publish() bool {
	before := q.published
	q.published = q.avail
	q.SetAvail(q.avail)
	if !q.events {
		return q.load16(q.Used)&1 == 0
	}
	event := q.load16(q.Used + 4 + 8*uint64(q.Size))
	return q.avail-event-1 < q.avail-before
}

// SetAvail stores the available ring's index, with no flags.
func (q *Queue) SetAvail(index uint16) {
	atomic.StoreUint32(word(q.Mem.At(q.Avail, 4)), uint32(index)<<16)
}

// Peek returns the head of the next used chain, which Take is to return.
func (q *Queue) Peek() (head uint16, ok bool) {
	if q.load16(q.Used+2) == q.used {
		return 0, false
	}
	return binary.LittleEndian.Uint16(q.Mem.At(q.Used+4+8*uint64(q.used%q.Size), 2)), true
}

// Take returns the next used chain and frees its descriptors, of which there
// are n.
func (q *Queue) Take(n int) (head uint16, written uint32, ok bool) {
	if q.load16(q.Used+2) == q.used {
		return 0, 0, false
	}
	entry := q.Mem.At(q.Used+4+8*uint64(q.used%q.Size), 8)
	q.used++
	head = uint16(binary.LittleEndian.Uint32(entry))
	q.release(head, n)
	return head, binary.LittleEndian.Uint32(entry[4:]), true
}

func (q *Queue) release(head uint16, n int) {
	table := q.Mem.At(q.Desc, 16*uint64(q.Size))
	chain := []uint16{head}
	for at := head; !q.indirect && len(chain) < n; {
		at = binary.LittleEndian.Uint16(table[16*int(at)+14:])
		chain = append(chain, at)
	}
	// The order in which Add took them.
	q.free = append(q.free, chain...)
}

// WantCall asks for a call at the next used chain and says whether one is there
// already.
func (q *Queue) WantCall() bool {
	at := q.Avail + 4 + 2*uint64(q.Size)
	b := q.Mem.At(at, 4) // nothing else is behind it
	atomic.StoreUint32(word(b), uint32(q.used))
	return q.load16(q.Used+2) != q.used
}

func word(b []byte) *uint32 { return (*uint32)(unsafe.Pointer(&b[0])) }

func (q *Queue) load16(addr uint64) uint16 {
	v := atomic.LoadUint32(word(q.Mem.At(addr&^3, 4)))
	return uint16(v >> (8 * (addr & 2)))
}
