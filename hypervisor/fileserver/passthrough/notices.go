package passthrough

import (
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's queue of events is read here, and what this process has not caused by
// itself becomes what the guest is told.

// notice is one event of the kernel's.
type notice struct {
	wd     int32
	mask   uint32
	cookie uint32
	name   string
	taken  bool
}

// read reads the queue to its end.
func (w *watcher) read(fd int, buf []byte) {
	w.mu.Lock()
	w.forget()
	for _, h := range w.touched {
		if e := w.expected[h]; e != nil {
			e.old += e.settled
			e.settled = 0
		}
	}
	before := w.touched
	w.touched = nil
	w.mu.Unlock()

	began := time.Now()
	notices, ended := readNotices(fd, buf, nil)
	if n := len(notices); n > 0 && notices[n-1].mask&unix.IN_MOVED_FROM != 0 {
		// Its other half follows, if there is one.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, partnerPause)
		notices, ended = readNotices(fd, buf, notices)
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	w.handle(notices)
	if ended {
		w.complete = began
	}
	for _, h := range before {
		e := w.expected[h]
		if e == nil {
			continue
		}
		if ended {
			e.old = 0
		}
		if *e == (expectation{}) {
			delete(w.expected, h)
		} else {
			w.touched = append(w.touched, h)
		}
	}
	now := time.Now()
	for h, since := range w.hidden {
		if now.Sub(since) > hiddenFor {
			delete(w.hidden, h)
		}
	}
}

// readNotices appends what is in the queue, and reports whether that is all.
func readNotices(fd int, buf []byte, notices []notice) ([]notice, bool) {
	for len(notices) < mostRead {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return notices, true
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			end := unix.SizeofInotifyEvent + int(event.Len)
			if end > len(b) {
				break
			}
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
			notices = append(notices, notice{wd: event.Wd, mask: event.Mask, cookie: event.Cookie, name: name})
			b = b[end:]
		}
	}
	return notices, false
}

// handle tells of what others have done. w is locked.
func (w *watcher) handle(notices []notice) {
	partners := map[uint32]*notice{}
	for i := range notices {
		if n := &notices[i]; n.mask&unix.IN_MOVED_TO != 0 {
			partners[n.cookie] = n
		}
	}
	for i := range notices {
		n := &notices[i]
		switch {
		case n.taken:
		case n.mask&unix.IN_Q_OVERFLOW != 0:
			w.warn("changes of volumes are told to the guest late, and several of one file as one: there were too many at once (fs.inotify.max_queued_events)")
			w.lose()
		case n.mask&unix.IN_IGNORED != 0:
			gone := w.byWatch[n.wd]
			delete(w.byWatch, n.wd)
			for _, each := range gone {
				w.drop(each)
			}
		case n.mask&(unix.IN_MOVED_FROM|unix.IN_MOVED_TO) != 0:
			var to *notice
			if n.mask&unix.IN_MOVED_FROM != 0 {
				to = partners[n.cookie]
			}
			w.moved(n, to)
		default:
			for _, each := range w.byWatch[n.wd] {
				w.happened(each, n)
			}
		}
	}
}

// moved tells of a rename, or of the half of one. w is locked.
func (w *watcher) moved(n, partner *notice) {
	if partner == nil {
		for _, each := range w.byWatch[n.wd] {
			if w.own(happening{each.id, n.name, n.mask & watchedEvents}) {
				continue
			}
			if n.mask&unix.IN_MOVED_FROM != 0 {
				w.queue.add(w, queued{kind: moved, id: each.id, name: n.name, isDir: n.isDir()})
			} else {
				w.queue.add(w, queued{kind: moved, to: each.id, toName: n.name, isDir: n.isDir()})
			}
		}
		return
	}
	partner.taken = true
	arrived := map[*watch]bool{}
	for _, from := range w.byWatch[n.wd] {
		q := queued{kind: moved, id: from.id, name: n.name, isDir: n.isDir()}
		mine := w.own(happening{from.id, n.name, unix.IN_MOVED_FROM})
		for _, to := range w.byWatch[partner.wd] {
			if to.mount != from.mount {
				continue
			}
			arrived[to] = true
			mine = w.own(happening{to.id, partner.name, unix.IN_MOVED_TO}) || mine
			q.to, q.toName = to.id, partner.name
		}
		if !mine {
			w.queue.add(w, q)
		}
	}
	for _, to := range w.byWatch[partner.wd] {
		if !arrived[to] && !w.own(happening{to.id, partner.name, unix.IN_MOVED_TO}) {
			w.queue.add(w, queued{kind: moved, to: to.id, toName: partner.name, isDir: n.isDir()})
		}
	}
}

func (n *notice) isDir() bool { return n.mask&unix.IN_ISDIR != 0 }

// hiddenFor is for how long hide remembers.
const hiddenFor = time.Second

// happened tells of a change of a name, or of a watched node itself. w is locked.
func (w *watcher) happened(each *watch, n *notice) {
	bit := n.mask & watchedEvents
	if bit == 0 {
		return
	}
	h := happening{each.id, n.name, bit}
	file := happening{each.id, n.name, unix.IN_MODIFY}
	if w.own(h) {
		// One that others have made just then has become one with it. They will close
		// the file: that is told with the change.
		if bit == unix.IN_MODIFY {
			w.hidden[file] = time.Now()
		}
		return
	}
	if n.name == "" && w.fs.nodes.watchedAbove(each.id) {
		return // its directory has told of it, by its name
	}
	q := queued{id: each.id, name: n.name, isDir: n.isDir()}
	switch bit {
	case unix.IN_CREATE:
		q.kind = created
	case unix.IN_DELETE:
		q.kind = deleted
	case unix.IN_MODIFY:
		q.kind = modified
	case unix.IN_ATTRIB:
		q.kind = changed
	case unix.IN_CLOSE_WRITE:
		if _, hid := w.hidden[file]; hid {
			delete(w.hidden, file)
			q.kind = modified
			w.queue.add(w, q)
		}
		q.kind = written
	}
	w.queue.add(w, q)
}
