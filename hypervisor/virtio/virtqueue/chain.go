package virtqueue

import "fmt"

// Chain is one descriptor chain. Its buffers are guest memory: the guest can
// change them while they are read. Reusing a Chain reuses its slices.
type Chain struct {
	head uint16
	// Readable are the buffers from the driver, Writable those for the device
	// to fill, in order. Empty buffers are left out.
	Readable, Writable [][]byte
}

// walk fills c with the chain that begins at head. Both the direct and the
// indirect walk count descriptors, so that a loop ends. A chain may be as long as the
// queue (virtio 1.2, 2.7.5 and 2.7.5.3.1), also one in an indirect table, which is what
// drivers split their requests by: the descriptor that refers to the table is none of
// its buffers.
func (q *Queue) walk(c *Chain, head uint16) error {
	c.head = head
	c.Readable, c.Writable = c.Readable[:0], c.Writable[:0]
	table, limit := q.ring.desc, q.ring.size
	index, indirect := head, false
	for count := uint16(0); ; {
		if index >= limit {
			return fmt.Errorf("chain at %d refers to descriptor %d of %d", head, index, limit)
		}
		d := readDescriptor(table, index)
		if d.flags&flagIndirect != 0 {
			if indirect || !q.indirect || d.flags&flagNext != 0 {
				return fmt.Errorf("chain at %d has an indirect table where none is allowed", head)
			}
			var err error
			if table, err = q.indirectTable(d); err != nil {
				return fmt.Errorf("chain at %d: %w", head, err)
			}
			limit, index, indirect = uint16(len(table)/descSize), 0, true
			continue
		}
		if count++; count > q.ring.size {
			return fmt.Errorf("chain at %d has more than %d descriptors", head, q.ring.size)
		}
		if err := q.add(c, d); err != nil {
			return fmt.Errorf("chain at %d: %w", head, err)
		}
		if d.flags&flagNext == 0 {
			return nil
		}
		index = d.next
	}
}

func (q *Queue) indirectTable(d descriptor) ([]byte, error) {
	if d.length == 0 || d.length%descSize != 0 || uint64(d.length) > DescBytes(q.ring.size) {
		return nil, fmt.Errorf("indirect table of %d bytes in a queue of %d", d.length, q.ring.size)
	}
	parts, err := q.memory.Append(q.parts[:0], d.address, d.length)
	q.parts = parts
	if err != nil {
		return nil, fmt.Errorf("indirect table: %w", err)
	}
	if len(parts) != 1 {
		return nil, fmt.Errorf("indirect table at %#x lies in %d memory regions", d.address, len(parts))
	}
	return parts[0], nil
}

func (q *Queue) add(c *Chain, d descriptor) error {
	if d.length == 0 {
		return nil
	}
	var err error
	if d.flags&flagWrite != 0 {
		c.Writable, err = q.memory.Append(c.Writable, d.address, d.length)
		return err
	}
	if len(c.Writable) > 0 {
		return fmt.Errorf("readable buffer at %#x follows a writable one", d.address)
	}
	c.Readable, err = q.memory.Append(c.Readable, d.address, d.length)
	return err
}

// Size is the number of bytes in buffers.
func Size(buffers [][]byte) int {
	n := 0
	for _, b := range buffers {
		n += len(b)
	}
	return n
}

// Copy copies src into the buffers dst, from offset bytes on, and returns how
// many bytes fitted.
func Copy(dst [][]byte, offset int, src []byte) int {
	n := 0
	for _, b := range dst {
		if offset >= len(b) {
			offset -= len(b)
			continue
		}
		n += copy(b[offset:], src[n:])
		offset = 0
		if n == len(src) {
			break
		}
	}
	return n
}

// CopyOut copies bytes of the buffers src, from offset bytes on, into dst and
// returns how many there were.
func CopyOut(dst []byte, src [][]byte, offset int) int {
	n := 0
	for _, b := range src {
		if offset >= len(b) {
			offset -= len(b)
			continue
		}
		n += copy(dst[n:], b[offset:])
		offset = 0
		if n == len(dst) {
			break
		}
	}
	return n
}
