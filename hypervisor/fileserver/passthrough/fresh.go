package passthrough

import (
	"time"

	"golang.org/x/sys/unix"
)

// Attributes that hold for no time at all are asked for again by the very call that has
// just looked a name up: a stat takes LOOKUP and GETATTR, and each directory on the way
// another GETATTR for its permissions. So what a lookup tells holds briefly where that
// cannot hide a change. The name itself is asked for each time in any case, and with it
// come its file's attributes; what the guest can go by meanwhile is what has no name in
// the call:
//
//   - a directory that is a working directory or a mount's root, for as long;
//   - a file that is open. As of its opening, attributes hold briefly where nobody had it
//     open before. A lock that the guest gets then says that it may know what others
//     wrote until now: it is given when they hold no more, where there was a change.
const (
	// brief is the shortest time there is. The guest's kernel counts ticks: it makes it
	// one, beginning with the next.
	brief = time.Nanosecond
	// briefMost is more than two ticks of any guest, with room for one whose clock lags.
	briefMost = 50 * time.Millisecond
)

// validity is how long attributes hold that were asked for without a name.
func (m *mount) validity(st *unix.Statx_t) time.Duration {
	if m.cache.Attributes == 0 && m.cache.Call && st.Mode&unix.S_IFMT != unix.S_IFREG {
		return brief
	}
	return m.cache.Attributes
}

// validity is how long attributes hold that a lookup tells of. The table is locked.
func (fs *FileSystem) validity(n *node, st *unix.Statx_t, now time.Time) time.Duration {
	m := n.mount
	if m.cache.Attributes > 0 || !m.cache.Call || n.mode != unix.S_IFREG {
		return m.validity(st)
	}
	// After a change a further one may leave all times as they are.
	seen := signature(st, now)
	if n.opens > 0 || seen == 0 {
		return 0
	}
	n.told, n.toldSeen = fs.clock(now), uint32(seen)
	return brief
}

// clock is a time in milliseconds that is never 0. It wraps.
func (fs *FileSystem) clock(now time.Time) uint32 {
	return uint32(now.Sub(fs.began)/time.Millisecond) | 1
}

// opened counts who has a node open. It reports whether the node has a descriptor itself.
func (t *table) opened(id uint64, by int32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, n := t.get(id)
	if n == nil {
		return false
	}
	n.opens += uint32(by)
	return n.fd >= 0
}

// settle waits until the guest, which gets a lock of a file, goes by none of its
// attributes any more that it was told of before somebody changed it.
func (fs *FileSystem) settle(id uint64, fd int) {
	t := &fs.nodes
	t.mu.Lock()
	_, n := t.get(id)
	if n == nil || n.told == 0 || n.mode != unix.S_IFREG {
		t.mu.Unlock()
		return
	}
	told, seen := n.told, n.toldSeen
	now := time.Now()
	left := briefMost - time.Duration(fs.clock(now)-told)*time.Millisecond
	if left <= 0 {
		n.told = 0
	}
	t.mu.Unlock()
	if left <= 0 {
		return
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err == nil {
		if half := uint32(signature(&st, now)); half == seen {
			return
		}
	}
	select {
	case <-time.After(left):
	case <-fs.closing:
	}
}
