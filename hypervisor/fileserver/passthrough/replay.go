package passthrough

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/internal/fsevents"
)

// What the agent repeats is answered as the guest's kernel has to hear it, and not done.
// A name is looked up first. So what is to be made again is not there, and what is to be
// removed again is: the file that the guest knew by that name, or a ghost, which is
// nothing but an inode number.
//
// Who forges the mark makes its own kernel see what is not so, as it could without.

// mostGhosts bounds those that the guest remembers.
const mostGhosts = 4096

// replay finds the event that a request repeats. The second result is whether it is
// marked: an event that is over is none. Who is in the middle of repeating when another
// takes its place, or the guest starts again, removes nothing by that.
func (fs *FileSystem) replay(in *fuse.InHeader) (*queued, bool) {
	if fs.watcher == nil {
		return nil, false
	}
	q := &fs.watcher.queue
	l := q.listener.Load()
	if l == nil {
		return nil, q.isFormer(in)
	}
	i, marked := l.mark.Event(in.Uid, in.Gid)
	if !marked {
		return nil, q.isFormer(in)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i >= len(l.told) {
		return nil, true
	}
	e := l.told[i]
	e.place = i
	return &e, true
}

// isFormer is whether a request has the mark of who listened before.
func (q *eventQueue) isFormer(in *fuse.InHeader) bool {
	former := q.former.Load()
	if former == nil {
		return false
	}
	_, marked := former.mark.Event(in.Uid, in.Gid)
	return marked
}

// setSource notes which node the guest was told as what has moved.
func (fs *FileSystem) setSource(e *queued, id uint64) {
	q := &fs.watcher.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if l := q.listener.Load(); l != nil && e.place < len(l.told) {
		l.told[e.place].source = id
	}
}

// marked is whether a request repeats something, and so must not do anything.
func (fs *FileSystem) marked(in *fuse.InHeader) bool {
	_, marked := fs.replay(in)
	return marked
}

// lookupEvents finds the file of events, which nobody but root finds, and only in the root.
func (fs *FileSystem) lookupEvents(in *fuse.InHeader, name string, out *fuse.EntryOut) bool {
	if fs.watcher == nil || name != fsevents.FileName || in.NodeId != rootPlace || in.Uid != 0 {
		return false
	}
	if fs.ghost(unix.S_IFREG, nodeEvents, out) != nil {
		return false
	}
	return true
}

// ghost makes the guest know a file that is none.
func (fs *FileSystem) ghost(kind uint32, flags uint16, out *fuse.EntryOut) error {
	t := &fs.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ghosts >= mostGhosts {
		return unix.ENFILE
	}
	t.ghosts++
	_, root := t.get(rootPlace)
	place, n := t.insert(key{dev: ^uint64(0), ino: uint64(t.ghosts)}, root.mount, uint16(kind))
	t.unhash(place, n)
	n.lookups = 1
	n.flags |= nodeGhost | flags
	n.ino = ghostNumber + uint64(place)
	*out = fuse.EntryOut{NodeId: n.id(place)}
	ghostAttr(n, &out.Attr)
	return nil
}

// ghostNumber is the first inode number of a ghost.
const ghostNumber = 1 << 62

func ghostAttr(n *node, out *fuse.Attr) {
	*out = fuse.Attr{Ino: n.ino, Mode: uint32(n.mode) | 0o600, Nlink: 1, Blksize: 4096}
	if n.mode == unix.S_IFDIR {
		out.Nlink = 2
	}
}

// getGhost fills in the attributes of a ghost, if the node is one.
func (fs *FileSystem) getGhost(id uint64, out *fuse.Attr) bool {
	if fs.watcher == nil {
		return false
	}
	t := &fs.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	_, n := t.get(id)
	if n == nil || n.flags&nodeGhost == 0 {
		return false
	}
	ghostAttr(n, out)
	return true
}

// replayLookup answers a marked lookup.
func (fs *FileSystem) replayLookup(e *queued, in *fuse.InHeader, name string, out *fuse.EntryOut) error {
	if err := checkName(name); err != nil {
		return err
	}
	if name == fsevents.Limbo {
		return fs.ghost(unix.S_IFDIR, 0, out)
	}
	isGhost := fs.getGhost(in.NodeId, &fuse.Attr{})
	// In limbo, any name is the other half of the event's.
	source := e.id == 0 && isGhost || name == e.name && in.NodeId == e.id
	target := e.to == 0 && isGhost || name == e.toName && in.NodeId == e.to
	switch {
	case e.kind == created && source:
		return unix.ENOENT
	case e.kind == deleted && source:
		return fs.former(in.NodeId, name, e, true, out)
	case e.kind == moved && source && e.to != 0:
		err := fs.entryIn(e.to, e.toName, out)
		if err != nil || out.Attr.Mode&unix.S_IFMT == unix.S_IFDIR != e.isDir {
			fs.takeBack(out, err)
			return fs.former(in.NodeId, name, e, false, out)
		}
		fs.setSource(e, out.NodeId)
		return nil
	case e.kind == moved && source:
		return fs.former(in.NodeId, name, e, false, out)
	case e.kind == moved && target && e.to != 0:
		// What it has replaced. Somebody may watch that. It is not what has moved there,
		// though that may be gone by now: Linux would do nothing, and tell nobody.
		if fs.tellFormerly(in.NodeId, name, true, e.source, out) {
			return nil
		}
		return unix.ENOENT
	case e.kind == moved && target:
		return unix.ENOENT
	}
	err := fs.entryIn(in.NodeId, name, out)
	switch {
	case err == nil:
		return nil
	case source:
		return fs.ghost(e.mode, 0, out)
	case fs.tellFormerly(in.NodeId, name, false, 0, out):
		return nil // a directory on the way that is gone by now as well
	default:
		return err
	}
}

// takeBack undoes an entry that is not told.
func (fs *FileSystem) takeBack(out *fuse.EntryOut, err error) {
	if err == nil {
		fs.nodes.forget(out.NodeId, 1)
	}
}

// entryIn is entry for a directory that is given by its id.
func (fs *FileSystem) entryIn(id uint64, name string, out *fuse.EntryOut) error {
	dir, err := fs.hold(id)
	if err != nil {
		return err
	}
	defer fs.drop(dir)
	return fs.entry(dir, name, out)
}

// former finds what the guest knows by a name that leads to it no more. A ghost takes its
// place where there is nothing.
func (fs *FileSystem) former(id uint64, name string, e *queued, gone bool, out *fuse.EntryOut) error {
	if fs.tellFormerly(id, name, gone, 0, out) && (out.Attr.Mode&unix.S_IFMT == unix.S_IFDIR) == e.isDir {
		return nil
	}
	kind := uint32(unix.S_IFREG)
	if e.isDir {
		kind = unix.S_IFDIR
	}
	return fs.ghost(kind, 0, out)
}

// tellFormerly tells of a file that has had a name. With gone, it has one link more than it has:
// the guest will take off one. A directory that is not removed is none then: the guest's
// kernel would do nothing more in it. It is not the node other.
func (fs *FileSystem) tellFormerly(id uint64, name string, gone bool, other uint64, out *fuse.EntryOut) bool {
	dir, err := fs.hold(id)
	if err != nil {
		return false
	}
	defer fs.drop(dir)
	var now unix.Statx_t
	there := unix.Statx(dir.fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask, &now) == nil
	for _, place := range fs.nodes.named(dir.place, name) {
		if fs.tellFormer(place, dir, name, there, &now, gone, other, out) {
			return true
		}
	}
	return false
}

// tellFormer tells of one node that has had the name, unless it has it now.
func (fs *FileSystem) tellFormer(place uint32, dir held, name string, there bool, now *unix.Statx_t, gone bool, other uint64, out *fuse.EntryOut) bool {
	t := &fs.nodes
	t.mu.Lock()
	n := t.at(place)
	if n.parent != dir.place || n.again != name || n.fd < 0 || n.mount != dir.node.mount || n.id(place) == other {
		t.mu.Unlock()
		return false
	}
	h, err := fs.pin(place, n) // which unlocks
	if err != nil {
		return false
	}
	defer fs.drop(h)
	var st unix.Statx_t
	if statFD(h.fd, &st) != nil || there && st.Ino == now.Ino && device(&st) == device(now) {
		return false
	}
	if gone && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Nlink != 0 {
		return false
	}
	t.mu.Lock()
	n.lookups++
	told := n.id(place)
	t.mu.Unlock()
	*out = fuse.EntryOut{NodeId: told}
	fs.fillAttr(n.mount, &st, &out.Attr)
	if gone {
		out.Attr.Nlink++
	}
	return true
}

// replayMake answers a marked request to make something: it is there already, or was.
func (fs *FileSystem) replayMake(e *queued, in *fuse.InHeader, kind uint32, name string, out *fuse.EntryOut) error {
	if e == nil || e.kind != created || in.NodeId != e.id || name != e.name {
		return unix.EPERM
	}
	err := fs.entryIn(in.NodeId, name, out)
	if err == nil && out.Attr.Mode&unix.S_IFMT == kind && out.Flags&fuse.ATTR_SUBMOUNT == 0 {
		return nil
	}
	fs.takeBack(out, err)
	return fs.ghost(kind, 0, out)
}

// replayMove answers a marked rename.
func (fs *FileSystem) replayMove(e *queued, in *fuse.RenameIn) error {
	if e == nil || e.kind != moved {
		return unix.EPERM
	}
	if e.to == 0 || in.Newdir != e.to {
		return nil
	}
	if to, err := fs.hold(e.to); err == nil {
		fs.moved(to, e.toName)
		fs.drop(to)
	}
	return nil
}

// replaySetAttr answers a marked change of attributes. The times are those that the
// guest's kernel already goes by: it looks at what it keeps of the content when it is
// told of others by a request that is not its own.
func (fs *FileSystem) replaySetAttr(in *fuse.SetAttrIn, out *fuse.AttrOut) error {
	if !fs.getGhost(in.NodeId, &out.Attr) {
		var st unix.Statx_t
		m, err := fs.stat(in.NodeId, false, 0, statMask, &st)
		if err != nil {
			return err
		}
		fs.fillAttr(m, &st, &out.Attr)
	}
	if in.Valid&fuse.FATTR_MTIME != 0 && in.Valid&fuse.FATTR_MTIME_NOW == 0 {
		out.Attr.Mtime, out.Attr.Mtimensec = in.Mtime, in.Mtimensec
	}
	return nil
}

// ghostKind is whether a node is a ghost, and its type.
func (fs *FileSystem) ghostKind(id uint64) (kind uint32, ok bool) {
	var attr fuse.Attr
	ok = fs.getGhost(id, &attr)
	return attr.Mode & unix.S_IFMT, ok
}

// openGhost opens the file of events, or what is not there any more.
func (fs *FileSystem) openGhost(in *fuse.OpenIn, kind uint32, out *fuse.OpenOut) error {
	switch {
	case kind != unix.S_IFREG:
		return unix.ENXIO
	case fs.marked(&in.InHeader):
		*out = fuse.OpenOut{Fh: replayHandle}
		return nil
	case in.Uid == 0 && in.Flags&unix.O_ACCMODE == unix.O_RDONLY && fs.nodes.isEvents(in.NodeId):
		return fs.openEvents(out)
	}
	return unix.ESTALE
}

// isEvents is whether a node is the file of events.
func (t *table) isEvents(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, n := t.get(id)
	return n != nil && n.flags&nodeEvents != 0
}
