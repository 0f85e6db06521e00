package passthrough

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/internal/fsevents"
)

const (
	created  = fsevents.Created
	deleted  = fsevents.Deleted
	modified = fsevents.Modified
	written  = fsevents.Written
	changed  = fsevents.Changed
	moved    = fsevents.Moved
)

const (
	// mostQueued bounds what waits for the guest, and what it is told at once.
	mostQueued = 4096
	// eventRate is how many events it is told a second, in the long run: each takes
	// its kernel and this process some requests.
	eventRate = 1000
)

// queued is a change to be told. Nodes are by their ids; 0 is none that the guest knows.
type queued struct {
	kind         fsevents.Kind
	id, to       uint64
	name, toName string
	isDir        bool
	// mode is the type of what was made, once it is told.
	mode uint32
	// place is among what was told at once. source is the node that the guest was told
	// as what has moved; 0: none yet.
	place  int
	source uint64
}

// eventQueue is what is to be told.
type eventQueue struct {
	mu    sync.Mutex
	list  []queued
	ready chan struct{} // has one when there is something
	room  chan struct{} // has one when something was taken
	// pending are the kinds that wait for a name since it last was another file.
	pending map[happening]uint32
	// budget is how many events may be told at once, as of then.
	budget float64
	then   time.Time

	listener atomic.Pointer[listener]
	// former is whose place was taken last.
	former atomic.Pointer[listener]
}

// listener is the guest's agent, which has the file of events open.
type listener struct {
	mark fsevents.Mark
	// told are the events that requests repeat.
	told  []queued
	fresh bool // was not told its mark
	gone  chan struct{}
}

func (q *eventQueue) init() {
	q.ready = make(chan struct{}, 1)
	q.room = make(chan struct{}, 1)
	q.pending = map[happening]uint32{}
	q.budget = mostQueued
	q.then = time.Now()
}

func (q *eventQueue) reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = nil
	clear(q.pending)
	q.notify(q.room)
	q.listen(nil)
}

// listen takes the place of who listened before. q is locked.
func (q *eventQueue) listen(l *listener) {
	// In this order: what one of both repeats is known as that at any time.
	if old := q.listener.Load(); old != nil {
		q.former.Store(old)
		q.listener.Store(l)
		close(old.gone)
	} else {
		q.listener.Store(l)
	}
}

// add queues a change. One that waits already, of the same file, stands for both.
func (q *eventQueue) add(w *watcher, e queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h, kind := happening{id: e.id, name: e.name}, uint32(1)<<e.kind
	coalesces := e.kind == modified || e.kind == written || e.kind == changed
	if coalesces && q.pending[h]&kind != 0 {
		return
	}
	if len(q.list) >= mostQueued {
		w.warn("changes of volumes are told to the guest late, and several of one file as one: there are more than it repeats", "waiting", len(q.list))
		w.lose()
		return
	}
	if coalesces {
		q.pending[h] |= kind
	} else {
		delete(q.pending, h)
		delete(q.pending, happening{id: e.to, name: e.toName})
	}
	q.list = append(q.list, e)
	q.notify(q.ready)
}

func (*eventQueue) notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// giveBack puts what was taken, and was not told, before what has come since.
func (q *eventQueue) giveBack(events []queued) {
	if len(events) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(slices.Clone(events), q.list...)
	q.budget += float64(len(events))
	q.notify(q.ready)
}

// take takes what may be told now; without anything, wait is when there will be.
func (q *eventQueue) take() (events []queued, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.budget = min(q.budget+now.Sub(q.then).Seconds()*eventRate, mostQueued)
	q.then = now
	n := min(len(q.list), int(q.budget), fsevents.MaxEvents)
	if n <= 0 {
		if len(q.list) > 0 {
			return nil, 20 * time.Millisecond
		}
		return nil, -1
	}
	events = slices.Clone(q.list[:n])
	q.list = q.list[:copy(q.list, q.list[n:])]
	q.notify(q.room)
	q.budget -= float64(n)
	clear(q.pending)
	return events, 0
}

// eventsHandle is the file handle of the file of events, replayHandle that of all that is
// opened in order to repeat something. No other file has them.
const (
	eventsHandle = ^uint64(0)
	replayHandle = ^uint64(1)
)

// openEvents gives the file of events to who asked last.
func (fs *FileSystem) openEvents(out *fuse.OpenOut) error {
	w := fs.watcher
	if err := w.begin(); err != nil {
		return err
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // which never fails
	l := &listener{fresh: true, gone: make(chan struct{})}
	l.mark = fsevents.NewMark(binary.LittleEndian.Uint32(random[:]), binary.LittleEndian.Uint32(random[4:]))
	w.queue.mu.Lock()
	w.queue.listen(l)
	w.queue.mu.Unlock()
	*out = fuse.OpenOut{Fh: eventsHandle, OpenFlags: fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NONSEEKABLE}
	return nil
}

// IsEvents says whether a read waits for changes, for ever if there are none.
func (fs *FileSystem) IsEvents(fh uint64) bool { return fs.watcher != nil && fh == eventsHandle }

// ReadEvents returns what there is to tell to the guest once there is something. The
// events that were told before are over. Nothing is told to who reads no more.
func (fs *FileSystem) ReadEvents(size uint32) ([]byte, fuse.Status) {
	if fs.watcher == nil || size < fsevents.ReadSize {
		return nil, fuse.EINVAL
	}
	q := &fs.watcher.queue
	l := q.listener.Load()
	if l == nil {
		return nil, fuse.EBADF
	}
	q.mu.Lock()
	fresh := l.fresh
	l.fresh, l.told = false, nil
	q.mu.Unlock()
	if fresh {
		first := fsevents.Event{Kind: fsevents.Marked, Mark: l.mark}
		return first.Append(nil), fuse.OK
	}
	for {
		events, wait := q.take()
		told, text, rest := fs.tellable(events)
		q.giveBack(rest)
		if len(told) > 0 {
			q.mu.Lock()
			l.told = told
			q.mu.Unlock()
			return text, fuse.OK
		}
		if len(events) > 0 {
			continue
		}
		var later <-chan time.Time
		if wait > 0 {
			later = time.After(wait)
		}
		select {
		case <-q.ready:
		case <-later:
		case <-l.gone:
			return nil, fuse.OK
		case <-fs.closing:
			return nil, fuse.ENODEV
		}
	}
}

// tellable makes events of what the guest still knows, as many as one answer has room
// for. The rest is to be told by the next.
func (fs *FileSystem) tellable(events []queued) (told []queued, text []byte, rest []queued) {
	for i, q := range events {
		e := fsevents.Event{Kind: q.kind, Name: q.name, ToName: q.toName, Type: unix.S_IFREG}
		if q.isDir {
			e.Type = unix.S_IFDIR
		}
		known := true
		for _, side := range []struct {
			id   *uint64
			name *string
			path *string
		}{{&q.id, &q.name, &e.Directory}, {&q.to, &q.toName, &e.To}} {
			if *side.id == 0 {
				continue
			}
			known = fs.place(side.id, side.name, side.path, q.kind == changed && q.isDir) && known
		}
		e.Name, e.ToName = q.name, q.toName
		if !known {
			continue
		}
		if q.kind == created {
			e.Type = fs.typeOf(q.id, q.name, e.Type)
		}
		q.mode = e.Type
		if len(text)+e.Size() > fsevents.ReadSize {
			return told, text, events[i:]
		}
		told = append(told, q)
		text = e.Append(text)
	}
	return told, text, nil
}

// place finds the path of a node's directory, or, of a file that is watched itself, its
// directory and name. self is whether a directory may be meant without a name.
func (fs *FileSystem) place(id *uint64, name, path *string, self bool) bool {
	t := &fs.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	place, n := t.live(*id)
	if n == nil {
		return false
	}
	if *name == "" && (!self || n.mode != unix.S_IFDIR) {
		if n.parent == 0 {
			return false
		}
		*name = n.again
		place = n.parent
		n = t.at(place)
		*id = n.id(place)
	}
	const longest = 4096
	var names []string
	for size := 0; place != rootPlace; {
		if n.parent == 0 || n.again == "" || size > longest {
			return false
		}
		names = append(names, n.again)
		size += len(n.again) + 1
		place = n.parent
		n = t.at(place)
	}
	slices.Reverse(names)
	for i, each := range names {
		if i > 0 {
			*path += "/"
		}
		*path += each
	}
	return true
}

// typeOf is the type of a file, or what it is taken for when it is gone.
func (fs *FileSystem) typeOf(id uint64, name string, otherwise uint32) uint32 {
	dir, err := fs.hold(id)
	if err != nil {
		return otherwise
	}
	defer fs.drop(dir)
	var st unix.Statx_t
	if err := unix.Statx(dir.fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask, &st); err != nil {
		return otherwise
	}
	return uint32(st.Mode) & unix.S_IFMT
}
