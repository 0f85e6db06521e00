package passthrough

import (
	"golang.org/x/sys/unix"
)

// expected is what a call of this process's is to cause. The zero value is nothing.
type expected struct {
	w *watcher
	// happenings are those that it causes; a rename that exchanges has four, as many
	// as a change of all attributes.
	happenings [4]happening
	count      int
}

func (x *expected) add(h happening) {
	if x.count < len(x.happenings) {
		x.happenings[x.count] = h
		x.count++
	}
}

// watches is whether anything is watched.
func (fs *FileSystem) watches() bool { return fs.watcher != nil && fs.watcher.active.Load() }

// expectName is called before a name of a directory changes.
func (fs *FileSystem) expectName(dir held, name string, bit uint32) expected {
	var x expected
	if fs.watches() {
		x.name(fs, dir, name, bit)
		x.begin(fs.watcher)
	}
	return x
}

func (x *expected) name(fs *FileSystem, dir held, name string, bit uint32) {
	t := &fs.nodes
	t.mu.Lock()
	if dir.node.flags&nodeWatched != 0 {
		x.add(happening{dir.node.id(dir.place), name, bit})
	}
	t.mu.Unlock()
}

// expectMove is called before a rename.
func (fs *FileSystem) expectMove(from held, oldName string, to held, newName string, exchange bool) expected {
	var x expected
	if !fs.watches() {
		return x
	}
	x.name(fs, from, oldName, unix.IN_MOVED_FROM)
	x.name(fs, to, newName, unix.IN_MOVED_TO)
	if exchange {
		x.name(fs, to, newName, unix.IN_MOVED_FROM)
		x.name(fs, from, oldName, unix.IN_MOVED_TO)
	}
	x.begin(fs.watcher)
	return x
}

// expectChange is called before a file changes, whose directory is told by its name.
func (fs *FileSystem) expectChange(id uint64, bits uint32) expected {
	var x expected
	if bits != 0 && fs.watches() {
		x.change(fs, id, bits)
		x.begin(fs.watcher)
	}
	return x
}

func (x *expected) change(fs *FileSystem, id uint64, bits uint32) {
	t := &fs.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	_, n := t.get(id)
	if n == nil {
		return
	}
	for bit := uint32(1); bits != 0; bit <<= 1 {
		if bits&bit == 0 {
			continue
		}
		bits &^= bit
		if n.parent != 0 {
			if p := t.at(n.parent); p.flags&nodeWatched != 0 {
				x.add(happening{p.id(n.parent), n.again, bit})
			}
		}
		if n.flags&nodeWatched != 0 {
			x.add(happening{id, "", bit})
		}
	}
}

func (x *expected) begin(w *watcher) {
	if x.count == 0 {
		return
	}
	x.w = w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range x.happenings[:x.count] {
		e := w.expected[h]
		if e == nil {
			e = &expectation{}
			w.expected[h] = e
			w.touched = append(w.touched, h)
		}
		e.flying++
	}
	if len(w.touched)%mostExpected == mostExpected-1 {
		w.rouse()
	}
}

// done is called after the call, with whether it has changed anything.
func (x *expected) done(did bool) {
	if x.w == nil {
		return
	}
	w := x.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range x.happenings[:x.count] {
		e := w.expected[h]
		if e == nil || e.flying == 0 {
			continue // the guest has started again
		}
		e.flying--
		switch {
		case did && e.early > 0:
			e.early--
		case did:
			e.settled++
		case e.early > e.flying:
			// What was taken for this call's was somebody else's.
			e.early--
			w.restore(h)
		}
	}
}

// restore tells of what was taken off in error. w is locked.
func (w *watcher) restore(h happening) {
	each := w.byID[h.id]
	if each == nil {
		return
	}
	n := &notice{wd: each.wd, mask: h.bit, name: h.name}
	if h.bit&(unix.IN_MOVED_FROM|unix.IN_MOVED_TO) != 0 {
		if h.bit == unix.IN_MOVED_FROM {
			w.queue.add(w, queued{kind: moved, id: h.id, name: h.name})
		} else {
			w.queue.add(w, queued{kind: moved, to: h.id, toName: h.name})
		}
		return
	}
	w.happened(each, n)
}

// own takes off an event that a call of this process has caused. w is locked.
func (w *watcher) own(h happening) bool {
	e := w.expected[h]
	switch {
	case e == nil:
		return false
	case e.old > 0:
		e.old--
	case e.settled > 0:
		e.settled--
	case e.flying > e.early:
		e.early++
	default:
		return false
	}
	return true
}
