package passthrough

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Changes are lost where there are more at once than the kernel's queue holds, or the one
// for the guest. They are made up for by looking at what is watched: what has changed since
// all was told last is told, once for all that has happened to it.

const (
	// surveyPause is between two surveys, stepPause between so many files of one: requests
	// come first.
	surveyPause = time.Second
	stepPause   = time.Millisecond
	stepFiles   = 256
	// coarse is twice what the clock of a file system lags behind at most.
	coarse = 20 * time.Millisecond
)

// lose notes that changes since the last complete reading may not be told. w is locked.
func (w *watcher) lose() {
	if w.lost.IsZero() || w.complete.Before(w.lost) {
		w.lost = w.complete
	}
	select {
	case w.losses <- struct{}{}:
	default:
	}
}

// makeUp surveys what is watched, whenever something was lost.
func (w *watcher) makeUp() {
	for {
		select {
		case <-w.losses:
		case <-w.fs.closing:
			return
		}
		w.mu.Lock()
		since := w.lost
		w.lost = time.Time{}
		var ids []uint64
		for e := w.order.Front(); e != nil; e = e.Next() {
			ids = append(ids, e.Value.(*watch).id)
		}
		w.mu.Unlock()
		if !since.IsZero() {
			s := survey{w: w, since: since.Add(-coarse)}
			s.vanished()
			for _, id := range ids {
				s.look(id)
			}
		}
		if !w.pause(surveyPause) {
			return
		}
	}
}

// pause reports false when the file system is closed.
func (w *watcher) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-w.fs.closing:
		return false
	}
}

// survey tells of all changes since a time.
type survey struct {
	w     *watcher
	since time.Time
	files int // that were looked at
}

// tell queues a change. Here nothing is lost again: the caller has seen that there is room.
// It has waited for that without any descriptor of a directory, which would keep a mount of
// the host busy for as long as a guest likes that reads nothing.
func (s *survey) tell(kind queued) {
	s.w.mu.Lock()
	s.w.queue.add(s.w, kind)
	s.w.mu.Unlock()
}

// awaitRoom reports false when the file system is closed.
func (s *survey) awaitRoom() bool { return s.w.queue.awaitRoom(s.w.fs.closing) }

// step is called for each file. It lets others go first now and then.
func (s *survey) step() {
	if s.files++; s.files%stepFiles == 0 {
		s.w.pause(stepPause)
	}
}

func (s *survey) recent(t unix.StatxTimestamp) bool {
	return !time.Unix(t.Sec, int64(t.Nsec)).Before(s.since)
}

// at describes a name of a directory.
func (s *survey) at(dir held, name string, st *unix.Statx_t) error {
	return unix.Statx(dir.fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask|unix.STATX_BTIME, st)
}

// vanished tells of the names that the guest knows in watched directories, and that are no
// more.
func (s *survey) vanished() {
	t := &s.w.fs.nodes
	type name struct {
		id, parent uint64
		name       string
		isDir      bool
	}
	for first := uint32(0); ; first += chunkSize {
		var known []name
		t.mu.Lock()
		end := first >= t.places()
		for place := first; !end && place < first+chunkSize; place++ {
			n := t.at(place)
			if n.flags&(nodeLive|nodeGhost) != nodeLive || n.parent == 0 {
				continue
			}
			if p := t.at(n.parent); p.flags&nodeWatched != 0 && p.mount == n.mount {
				known = append(known, name{n.id(place), p.id(n.parent), n.again, n.mode == unix.S_IFDIR})
			}
		}
		t.mu.Unlock()
		if end {
			return
		}
		for _, each := range known {
			s.step()
			if s.isGone(each.id, each.parent, each.name) && s.awaitRoom() {
				s.tell(queued{kind: deleted, id: each.parent, name: each.name, isDir: each.isDir})
			}
		}
	}
}

// isGone is whether a name is no more since the survey's time.
func (s *survey) isGone(id, parent uint64, name string) bool {
	dir, err := s.w.fs.hold(parent)
	if err != nil {
		return false
	}
	defer s.w.fs.drop(dir)
	var st unix.Statx_t
	if err := s.at(dir, name, &st); !errors.Is(err, unix.ENOENT) {
		return false
	}
	if statFD(dir.fd, &st) != nil || !s.recent(st.Mtime) {
		return false
	}
	// The guest may have a file open whose name went long ago.
	file, err := s.w.fs.hold(id)
	if err != nil {
		return true
	}
	defer s.w.fs.drop(file)
	return statFD(file.fd, &st) != nil || s.recent(st.Ctime)
}

// look tells of what has changed in a directory, or of a file.
func (s *survey) look(id uint64) {
	var st unix.Statx_t
	isDir, err := s.stat(id, &st)
	if err != nil || !s.awaitRoom() {
		return
	}
	above := s.w.fs.nodes.watchedAbove(id) // where it is told of by its name
	switch {
	case !s.recent(st.Ctime) || above:
	case !isDir && s.recent(st.Mtime):
		s.tell(queued{kind: modified, id: id})
		s.tell(queued{kind: written, id: id})
	default:
		// Who watches a directory in which something has gone that the guest does not know
		// sees this alone of it.
		s.tell(queued{kind: changed, id: id, isDir: isDir})
	}
	if !isDir {
		return
	}
	renamed := s.recent(st.Mtime) // whether any name has changed
	for next, more := int64(0), true; more && s.awaitRoom(); {
		next, more = s.list(id, next, renamed)
	}
}

// stat asks for the attributes of a node.
func (s *survey) stat(id uint64, st *unix.Statx_t) (isDir bool, err error) {
	h, err := s.w.fs.hold(id)
	if err != nil {
		return false, err
	}
	defer s.w.fs.drop(h)
	return h.node.mode == unix.S_IFDIR, statFD(h.fd, st)
}

// list tells of what has changed in a directory, from an offset on, as long as there is room
// for that. more is whether something is left, from the offset next on.
func (s *survey) list(id uint64, from int64, renamed bool) (next int64, more bool) {
	dir, err := s.w.fs.hold(id)
	if err != nil {
		return 0, false
	}
	defer s.w.fs.drop(dir)
	fd, err := openAgain(dir.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	if from != 0 {
		if _, err := unix.Seek(fd, from, unix.SEEK_SET); err != nil {
			return 0, false
		}
	}
	next = from
	buf := make([]byte, entriesSize)
	for {
		entries, err := readEntries(fd, buf)
		if err != nil || len(entries) == 0 {
			return 0, false
		}
		for len(entries) > 0 {
			e, size, err := parseEntry(entries)
			if err != nil {
				return 0, false
			}
			if !s.w.queue.hasRoom() {
				return next, true
			}
			entries, next = entries[size:], int64(e.Off)
			if e.Name != "." && e.Name != ".." {
				s.step()
				s.entry(id, dir, e.Name, renamed)
			}
		}
		select {
		case <-s.w.fs.closing:
			return 0, false
		default:
		}
	}
}

// entry tells of what has happened to a name.
func (s *survey) entry(id uint64, dir held, name string, renamed bool) {
	var st unix.Statx_t
	if s.at(dir, name, &st) != nil || st.Mnt_id != dir.node.mount.id || !s.recent(st.Ctime) {
		return
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	isWritten := st.Mode&unix.S_IFMT == unix.S_IFREG && s.recent(st.Mtime)
	known, other := s.w.fs.nodes.knows(dir.place, name, &st)
	switch {
	case known:
	case renamed && st.Mask&unix.STATX_BTIME != 0 && s.recent(st.Btime) && !other:
		s.tell(queued{kind: created, id: id, name: name, isDir: isDir})
		if isWritten {
			s.tell(queued{kind: written, id: id, name: name})
		}
		return
	case renamed && (other || !s.recent(st.Mtime)):
		// What it has replaced, if anything, is watched perhaps.
		s.tell(queued{kind: moved, to: id, toName: name, isDir: isDir})
		return
	}
	if isWritten {
		s.tell(queued{kind: modified, id: id, name: name})
		s.tell(queued{kind: written, id: id, name: name})
		return
	}
	s.tell(queued{kind: changed, id: id, name: name, isDir: isDir})
}

// knows is whether the guest knows the file by its name, or another one that had it.
func (t *table) knows(parent uint32, name string, st *unix.Statx_t) (known, other bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.eachNamed(parent, name, func(_ uint32, n *node) bool {
		if n.parent == parent && n.again == name {
			same := n.ino == st.Ino && n.dev == device(st)
			known, other = known || same, other || !same
		}
		return true
	})
	return known, other
}

// hasRoom is whether half of the queue is free.
func (q *eventQueue) hasRoom() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list) < mostQueued/2
}

// awaitRoom waits until half of the queue is free, and reports false when closing is
// closed.
func (q *eventQueue) awaitRoom(closing <-chan struct{}) bool {
	for {
		if q.hasRoom() {
			return true
		}
		select {
		case <-q.room:
		case <-closing:
			return false
		}
	}
}
