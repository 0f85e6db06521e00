package virtqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Sizes and offsets of the split ring's parts, in bytes.
const (
	descSize  = 16
	indexAt   = 2 // idx in the available and the used ring, after flags
	entriesAt = 4
	availSize = 2
	usedSize  = 8
	eventSize = 2 // used_event, avail_event
)

// DescBytes is the size of the descriptor table of a queue.
func DescBytes(size uint16) uint64 { return descSize * uint64(size) }

// AvailBytes is the size of the available ring of a queue, used_event included.
func AvailBytes(size uint16) uint64 { return entriesAt + availSize*uint64(size) + eventSize }

// UsedBytes is the size of the used ring of a queue, avail_event included.
func UsedBytes(size uint16) uint64 { return entriesAt + usedSize*uint64(size) + eventSize }

// ring is the memory of one queue. Its methods do not check indices: callers
// pass those below size.
type ring struct {
	desc, avail, used []byte
	size              uint16
}

func newRing(size uint16, desc, avail, used []byte) (ring, error) {
	r := ring{desc: desc, avail: avail, used: used, size: size}
	switch {
	case uint64(len(desc)) != DescBytes(size), uint64(len(avail)) != AvailBytes(size), uint64(len(used)) != UsedBytes(size):
		return ring{}, fmt.Errorf("parts of %d, %d and %d bytes do not make a queue of %d", len(desc), len(avail), len(used), size)
	case address(desc)%16 != 0, address(avail)%2 != 0, address(used)%4 != 0:
		return ring{}, errors.New("parts of the queue are not aligned")
	}
	return r, nil
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// word returns the aligned 32-bit word that holds the 16 bits at b[offset], and
// how far they are shifted in it: sync/atomic has no 16-bit operations. The
// word may begin 2 bytes before b or end 2 bytes after it, but, being aligned,
// never in another page.
func word(b []byte, offset uint64) (*uint32, uint) {
	p := unsafe.Pointer(&b[offset])
	odd := uintptr(p) & 2
	return (*uint32)(unsafe.Add(p, -int(odd))), uint(odd) * 8
}

func load16(b []byte, offset uint64) uint16 {
	p, shift := word(b, offset)
	return uint16(atomic.LoadUint32(p) >> shift)
}

// storeTries bounds how often store16 lets the driver get in its way.
const storeTries = 1 << 10

// store16 leaves the other half of the word, which may be the driver's, as it
// is. A driver that changes that half without end has it overwritten.
func store16(b []byte, offset uint64, value uint16) {
	p, shift := word(b, offset)
	var after uint32
	for range storeTries {
		before := atomic.LoadUint32(p)
		after = before&^(0xffff<<shift) | uint32(value)<<shift
		if atomic.CompareAndSwapUint32(p, before, after) {
			return
		}
	}
	atomic.StoreUint32(p, after)
}

func (r *ring) availFlags() uint16 { return load16(r.avail, 0) }
func (r *ring) availIndex() uint16 { return load16(r.avail, indexAt) }
func (r *ring) usedIndex() uint16  { return load16(r.used, indexAt) }
func (r *ring) usedEvent() uint16  { return load16(r.avail, entriesAt+availSize*uint64(r.size)) }

func (r *ring) setUsedFlags(v uint16)  { store16(r.used, 0, v) }
func (r *ring) setUsedIndex(v uint16)  { store16(r.used, indexAt, v) }
func (r *ring) setAvailEvent(v uint16) { store16(r.used, entriesAt+usedSize*uint64(r.size), v) }

// availEntry is the head at position slot of the available ring.
func (r *ring) availEntry(slot uint16) uint16 {
	return binary.LittleEndian.Uint16(r.avail[entriesAt+availSize*uint64(slot):])
}

func (r *ring) setUsedEntry(slot, head uint16, written uint32) {
	entry := r.used[entriesAt+usedSize*uint64(slot):]
	binary.LittleEndian.PutUint32(entry, uint32(head))
	binary.LittleEndian.PutUint32(entry[4:], written)
}

// Flags of a descriptor.
const (
	flagNext     = 1
	flagWrite    = 2
	flagIndirect = 4
)

type descriptor struct {
	address uint64
	length  uint32
	flags   uint16
	next    uint16
}

// readDescriptor copies the descriptor at index of a table, once.
func readDescriptor(table []byte, index uint16) descriptor {
	var raw [descSize]byte
	copy(raw[:], table[descSize*uint64(index):])
	return descriptor{
		address: binary.LittleEndian.Uint64(raw[0:]),
		length:  binary.LittleEndian.Uint32(raw[8:]),
		flags:   binary.LittleEndian.Uint16(raw[12:]),
		next:    binary.LittleEndian.Uint16(raw[14:]),
	}
}
