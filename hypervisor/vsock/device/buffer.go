package device

import "sync"

// chunkSize is the piece in which received data is kept, in bytes.
const chunkSize = 32 << 10

// chunk holds received data between from and to.
type chunk struct {
	from, to int
	next     *chunk
	data     [chunkSize]byte
}

func (c *chunk) bytes() []byte { return c.data[c.from:c.to] }

// chunkPool recycles chunks among the connections of a device.
type chunkPool struct {
	pool sync.Pool
}

func (p *chunkPool) get() *chunk {
	if c, ok := p.pool.Get().(*chunk); ok {
		return c
	}
	return new(chunk)
}

// put takes back a chunk and all that follow it.
func (p *chunkPool) put(c *chunk) {
	for c != nil {
		next := c.next
		c.from, c.to, c.next = 0, 0, nil
		p.pool.Put(c)
		c = next
	}
}

// chunkQueue is received data in order. Every chunk but the last is full, so
// that many small packets take no more memory than one large one.
type chunkQueue struct {
	head, tail *chunk
}

// room returns the free end of the last chunk, never empty.
func (q *chunkQueue) room(pool *chunkPool) *chunk {
	if q.tail != nil && q.tail.to < chunkSize {
		return q.tail
	}
	c := pool.get()
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
	return c
}

// pop removes the first chunk, nil if there is none.
func (q *chunkQueue) pop() *chunk {
	c := q.head
	if c == nil {
		return nil
	}
	q.head, c.next = c.next, nil
	if q.head == nil {
		q.tail = nil
	}
	return c
}
