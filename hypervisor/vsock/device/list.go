package device

// list is a queue of connections from which any can be removed at once. A
// connection is in one list at most.
type list struct {
	head, tail *Conn
}

type links struct {
	prev, next *Conn
	listed     bool
}

func (l *list) pushBack(c *Conn) {
	if c.links.listed {
		return
	}
	c.links = links{prev: l.tail, listed: true}
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.links.next = c
	}
	l.tail = c
}

func (l *list) remove(c *Conn) {
	if !c.links.listed {
		return
	}
	if c.links.prev == nil {
		l.head = c.links.next
	} else {
		c.links.prev.links.next = c.links.next
	}
	if c.links.next == nil {
		l.tail = c.links.prev
	} else {
		c.links.next.links.prev = c.links.prev
	}
	c.links = links{}
}
