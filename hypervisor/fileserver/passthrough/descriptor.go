package passthrough

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// held is a node with a descriptor that stays open until drop.
type held struct {
	node      *node
	place     uint32
	fd        int
	temporary bool // nobody else has this descriptor
}

// hold finds the node of an id that the guest has named, and a descriptor of it.
func (fs *FileSystem) hold(id uint64) (held, error) {
	t := &fs.nodes
	t.mu.Lock()
	place, n := t.get(id)
	if n == nil {
		t.mu.Unlock()
		return held{}, unix.ESTALE
	}
	return fs.pin(place, n)
}

// pin is called with the table locked, and unlocks it.
func (fs *FileSystem) pin(place uint32, n *node) (held, error) {
	n.pins++
	n.flags |= nodeUsed
	fd := n.fd
	fs.nodes.mu.Unlock()
	h := held{node: n, place: place, fd: int(fd)}
	if fd >= 0 {
		return h, nil
	}
	if err := fs.reopen(&h); err != nil {
		h.temporary = false
		fs.drop(h)
		return held{}, err
	}
	return h, nil
}

func (fs *FileSystem) drop(h held) {
	if h.temporary {
		unix.Close(h.fd)
	}
	t := &fs.nodes
	t.mu.Lock()
	var fds []int
	h.node.pins--
	if h.node.pins == 0 {
		if h.node.lookups == 0 {
			fds = t.release(h.place, h.node, fds)
		} else if h.node.fd >= 0 && h.node.mount.gone.Load() {
			fds = append(fds, int(h.node.fd))
			h.node.fd = -1
			t.descriptors--
		}
	}
	t.mu.Unlock()
	closeAll(fds)
}

// reopen opens a node that has no descriptor.
func (fs *FileSystem) reopen(h *held) error {
	t := &fs.nodes
	n := h.node
	if n.mount.gone.Load() {
		return unix.ESTALE
	}
	t.mu.Lock()
	again, isHandle, parent := n.again, n.flags&nodeHandle != 0, n.parent
	if !isHandle && parent == 0 {
		t.mu.Unlock()
		return unix.ESTALE
	}
	var fd int
	var err error
	if isHandle {
		t.mu.Unlock()
		fd, err = fs.openRetry(func() (int, error) { return n.mount.openHandle(again) })
	} else {
		fd, err = fs.reopenByName(n, parent, again) // which unlocks
	}
	if err != nil {
		return err
	}
	h.fd = fd
	if !n.mount.lasting {
		h.temporary = true
		return nil
	}
	t.mu.Lock()
	if n.fd >= 0 { // somebody was faster
		h.fd = int(n.fd)
		t.mu.Unlock()
		unix.Close(fd)
		return nil
	}
	n.fd = int32(fd)
	t.descriptors++
	over := t.descriptors > t.limit
	t.mu.Unlock()
	if over {
		fs.evict(1)
	}
	return nil
}

// reopenByName is called with the table locked, and unlocks it.
func (fs *FileSystem) reopenByName(n *node, parent uint32, name string) (int, error) {
	dir, err := fs.pin(parent, fs.nodes.at(parent))
	if err != nil {
		return -1, err
	}
	defer fs.drop(dir)
	fd, err := fs.openRetry(func() (int, error) { return fs.quick.openChild(dir.fd, name) })
	if err != nil {
		return -1, stale(err)
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if st.Ino != n.ino || device(&st) != n.dev || st.Mnt_id != n.mount.id || st.Mode&unix.S_IFMT != n.mode ||
		n.mode != unix.S_IFREG && n.seen != born(&st) {
		unix.Close(fd)
		return -1, unix.ESTALE
	}
	return fd, nil
}

// stale is what the guest's kernel looks a name up again for.
func stale(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return unix.ESTALE
	}
	return err
}

// born tells one file from a later one of the same inode number.
func born(st *unix.Statx_t) uint64 {
	if st.Mask&unix.STATX_BTIME == 0 {
		return 0
	}
	return uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec)
}

// openRetry makes room when there are too many descriptors.
func (fs *FileSystem) openRetry(open func() (int, error)) (int, error) {
	fd, err := open()
	if errors.Is(err, unix.EMFILE) {
		const some = 64
		fs.evict(some)
		fd, err = open()
	}
	return fd, err
}

// validity is how long what a lookup tells holds: the attributes, and whether the name does
// briefly, though it would not.
type validity struct {
	attributes time.Duration
	briefly    bool
}

// adopt makes the guest know the file that fd, which it takes over, refers to.
func (fs *FileSystem) adopt(dir held, name string, fd int, st *unix.Statx_t) (id uint64, m *mount, valid validity) {
	m = fs.mountOf(dir.node.mount, fd, st)
	now := time.Now()
	k := key{mount: m.index, dev: device(st), ino: st.Ino}
	t := &fs.nodes
	t.mu.Lock()
	place, n := t.find(k)
	for n != nil && n.fd < 0 && n.flags&nodeHandle != 0 {
		// Without a descriptor its inode number may be another file's by now.
		again := n.again
		t.mu.Unlock()
		now, err := fileHandle(fd)
		t.mu.Lock()
		if p, same := t.find(k); same != n {
			place, n = p, same
			continue
		}
		if (err != nil || now != again) && n.fd < 0 {
			t.unhash(place, n)
			n = nil
		}
		break
	}
	if n != nil && (n.mode != st.Mode&unix.S_IFMT || n.fd < 0 && n.mode != unix.S_IFREG && n.seen != born(st)) {
		t.unhash(place, n)
		n = nil
	}
	var fds []int
	if n == nil {
		place, n = t.insert(k, m, st.Mode)
	}
	if n.mode != unix.S_IFREG {
		n.seen = born(st)
	}
	n.lookups++
	n.flags |= nodeUsed
	if !m.handles && place != rootPlace && name != "" {
		fds = t.setName(place, n, dir.place, name)
	}
	twin := -1
	switch {
	case n.fd >= 0:
		twin = fd
	case m.lasting:
		n.fd = int32(fd)
		t.descriptors++
	default:
		fds = append(fds, fd)
	}
	over := t.descriptors > t.limit
	id = n.id(place)
	valid = validity{fs.validity(n, st, now), fs.holdsBriefly(dir, n, now)}
	watch := m.cache.Watch && n.flags&nodeWatched == 0 && (n.mode == unix.S_IFDIR || m != dir.node.mount) && fs.watches()
	if watch {
		n.pins++ // the descriptor could be closed meanwhile, and be another file's
	}
	t.mu.Unlock()
	if watch {
		fs.watcher.add(id, m, fd)
		fs.drop(held{node: n, place: place})
	}
	if twin >= 0 {
		closeTwin(twin)
	}
	closeAll(fds)
	if over {
		fs.evict(1)
	}
	return id, m, valid
}

// evict closes descriptors of nodes that were not used lately, until count fewer than
// before, or no more than the limit, are left.
func (fs *FileSystem) evict(count int) {
	t := &fs.nodes
	for ; count > 0; count-- {
		t.mu.Lock()
		place, n := t.victim()
		if n == nil {
			t.mu.Unlock()
			return
		}
		n.pins++
		fd := int(n.fd)
		again := ""
		if n.mount.handles && n.flags&nodeHandle == 0 {
			t.mu.Unlock()
			again, _ = fileHandle(fd)
			t.mu.Lock()
		} else if !n.mount.handles {
			t.mu.Unlock()
			var st unix.Statx_t
			gone := statFD(fd, &st) != nil || st.Nlink == 0
			t.mu.Lock()
			if gone {
				n.flags |= nodeLasting
			}
		}
		var fds []int
		n.pins--
		if again != "" {
			n.again = again
			n.flags |= nodeHandle
		}
		if n.mount.handles && n.flags&nodeHandle == 0 {
			n.flags |= nodeLasting
		}
		if n.pins == 0 && n.flags&nodeLasting == 0 && n.fd >= 0 {
			fds = append(fds, int(n.fd))
			n.fd = -1
			t.descriptors--
		}
		fds = t.release(place, n, fds)
		t.mu.Unlock()
		closeAll(fds)
	}
}

// victim finds a node whose descriptor can be closed.
func (t *table) victim() (uint32, *node) {
	for range 2 * t.places() {
		t.hand++
		if t.hand >= t.places() {
			t.hand = 1
		}
		n := t.at(t.hand)
		if n.fd < 0 || n.pins > 0 || n.flags&nodeLasting != 0 {
			continue
		}
		if !n.mount.handles && n.parent == 0 {
			continue
		}
		if n.flags&nodeUsed != 0 {
			n.flags &^= nodeUsed
			continue
		}
		return t.hand, n
	}
	return 0, nil
}

// maxHandle is the longest file handle that is kept: ext4's, xfs's, btrfs's and tmpfs's
// are shorter.
const maxHandle = 40

// fileHandle is what the kernel opens the file by again.
func fileHandle(fd int) (string, error) {
	var h struct {
		size uint32
		kind int32
		data [maxHandle]byte
	}
	h.size = maxHandle
	var mountID int32
	var empty [1]byte
	_, _, e := unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&mountID)), unix.AT_EMPTY_PATH, 0)
	if e != 0 {
		return "", e
	}
	var b [maxHandle + 1]byte
	b[0] = byte(h.kind)
	n := copy(b[1:], h.data[:min(h.size, maxHandle)])
	return string(b[:1+n]), nil
}

func openHandle(mount int, again string) (int, error) {
	h := unix.NewFileHandle(int32(again[0]), []byte(again[1:]))
	for {
		fd, err := unix.OpenByHandleAt(mount, h, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
