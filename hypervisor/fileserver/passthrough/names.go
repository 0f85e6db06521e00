package passthrough

import "hash/maphash"

// names finds nodes by what they are opened by again: their directory, and the name in it.
// It has eight bytes or so for each place of the table, and is kept only where it is needed:
// each event that the guest is told of asks who has had a name. Who names files cannot choose
// which of them are looked through: the hash is seeded.
type names struct {
	kept bool
	seed maphash.Seed
	// heads are by the hash, next by the place; 0 ends each list.
	heads, next []uint32
	count       int
}

func (x *names) init(kept bool) {
	const few = 256
	*x = names{kept: kept}
	if kept {
		x.seed = maphash.MakeSeed()
		x.heads = make([]uint32, few)
	}
}

func (x *names) head(parent uint32, name string) *uint32 {
	h := maphash.String(x.seed, name) ^ uint64(parent)*0x9e3779b97f4a7c15
	return &x.heads[(h^h>>32)%uint64(len(x.heads))]
}

// addName is called once a node has a directory and a name.
func (t *table) addName(place uint32, n *node) {
	x := &t.names
	if !x.kept {
		return
	}
	if places := int(t.places()); len(x.next) < places {
		x.next = append(x.next, make([]uint32, places-len(x.next))...)
	}
	if x.count++; x.count > len(x.heads) {
		old := x.heads
		x.heads = make([]uint32, 2*len(old))
		for _, each := range old {
			for each != 0 {
				following := x.next[each]
				m := t.at(each)
				x.push(m.parent, m.again, each)
				each = following
			}
		}
	}
	x.push(n.parent, n.again, place)
}

func (x *names) push(parent uint32, name string, place uint32) {
	h := x.head(parent, name)
	x.next[place] = *h
	*h = place
}

// removeName is called before a node has another directory or name, or none. It is nothing
// for one that has none.
func (t *table) removeName(place uint32, n *node) {
	x := &t.names
	if !x.kept || n.parent == 0 {
		return
	}
	for p := x.head(n.parent, n.again); *p != 0; p = &x.next[*p] {
		if *p == place {
			*p, x.next[place] = x.next[place], 0
			x.count--
			return
		}
	}
}

// eachNamed calls f for the nodes among which those are that were last found by a name,
// until it returns false.
func (t *table) eachNamed(parent uint32, name string, f func(place uint32, n *node) bool) {
	if !t.names.kept {
		return
	}
	for place := *t.names.head(parent, name); place != 0; place = t.names.next[place] {
		if !f(place, t.at(place)) {
			return
		}
	}
}

// isNamed is whether the guest remembers a file by a name. The table is locked.
func (t *table) isNamed(parent uint32, name string) (is bool) {
	t.eachNamed(parent, name, func(_ uint32, n *node) bool {
		is = n.parent == parent && n.again == name && n.lookups > 0
		return !is
	})
	return is
}

// named finds the nodes that were last found by a name.
func (t *table) named(parent uint32, name string) (places []uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.eachNamed(parent, name, func(place uint32, n *node) bool {
		if n.parent == parent && n.again == name {
			places = append(places, place)
		}
		return true
	})
	return places
}
