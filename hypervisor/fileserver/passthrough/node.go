package passthrough

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// key is what makes two files one node.
type key struct {
	dev, ino uint64
	mount    uint32
}

// node is a file that the guest knows, or the directory of one. There are as many as the
// guest remembers files: it is kept small.
type node struct {
	lookups uint64 // how often the guest was told of it
	ino     uint64
	dev     uint64
	seen    uint64 // what the content looked like when it was last opened, 0 for unknown
	// again is what it is opened by without a descriptor: a file handle, or its name in
	// the directory parent.
	again string
	mount *mount

	fd         int32  // -1 without
	pins       int32  // how many use it now
	generation uint32 // how often this place in the table was used
	parent     uint32 // the place of its directory; 0 without
	children   uint32 // how many have it as their parent
	next       uint32 // of the same hash, or free
	opens      uint32 // how often the guest has it open
	// told is when the guest was last told of attributes that it may rely on briefly,
	// by fresh; toldSeen is the lower half of what the content looked like then. Of a
	// directory, told is when its name last held briefly, toldSeen when it was asked for.
	told, toldSeen uint32
	mode           uint16 // the type alone
	flags          uint16
}

const (
	nodeUsed    = 1 << iota // since the hand came by
	nodeHashed              // a lookup finds it
	nodeHandle              // again is a file handle
	nodeLasting             // the descriptor is all there is
	nodeLive                // the place is taken
	nodeGhost               // it is no file: see replay.go
	nodeWatched             // the host tells of changes
	nodeEvents              // the file of events, a ghost
	nodeRefused             // see onPath
)

// table has all nodes, in places that never move. A node's id in the protocol is its
// place and, above it, how often the place was used before: an id that the guest has
// forgotten, or made up, names nothing.
type table struct {
	mu      sync.Mutex
	chunks  [][]node
	free    uint32
	buckets []uint32
	count   int
	// descriptors is how many nodes have one, limit how many may.
	descriptors, limit int
	hand               uint32
	ghosts             int
	// unwatched are watched nodes that the guest has forgotten.
	unwatched []uint64
	names     names
}

const (
	chunkSize = 256
	rootPlace = fuse.FUSE_ROOT_ID
)

// init empties the table. byName is whether nodes are to be found by names.
func (t *table) init(byName bool) {
	t.names.init(byName)
	t.ghosts = 0
	t.unwatched = nil
	t.chunks = nil
	t.free = 0
	t.buckets = make([]uint32, 1024)
	t.count = 0
	t.descriptors = 0
	t.hand = 0
	t.grow()
}

// grow adds places. The first one, 0, stays empty.
func (t *table) grow() {
	base := uint32(len(t.chunks) * chunkSize)
	chunk := make([]node, chunkSize)
	t.chunks = append(t.chunks, chunk)
	for i := chunkSize - 1; i >= 0; i-- {
		chunk[i].fd = -1
		if base+uint32(i) == 0 {
			continue
		}
		chunk[i].next = t.free
		t.free = base + uint32(i)
	}
}

func (t *table) at(place uint32) *node {
	return &t.chunks[place/chunkSize][place%chunkSize]
}

func (t *table) places() uint32 { return uint32(len(t.chunks) * chunkSize) }

func (n *node) id(place uint32) uint64 { return uint64(n.generation)<<32 | uint64(place) }

// get finds the node of an id that the guest has named.
func (t *table) get(id uint64) (uint32, *node) {
	place := uint32(id)
	if place == 0 || place >= t.places() {
		return 0, nil
	}
	n := t.at(place)
	if n.flags&nodeLive == 0 || uint64(n.generation) != id>>32 || n.lookups == 0 {
		return 0, nil
	}
	return place, n
}

// live is get also for a directory that the guest has forgotten, but not what is in it.
func (t *table) live(id uint64) (uint32, *node) {
	place := uint32(id)
	if place == 0 || place >= t.places() {
		return 0, nil
	}
	n := t.at(place)
	if n.flags&nodeLive == 0 || uint64(n.generation) != id>>32 {
		return 0, nil
	}
	return place, n
}

func (k key) hash() uint64 {
	h := k.ino*0x9e3779b97f4a7c15 ^ k.dev*0xc2b2ae3d27d4eb4f ^ uint64(k.mount)*0x165667b19e3779f9
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	return h ^ h>>32
}

func (n *node) key() key { return key{mount: n.mount.index, dev: n.dev, ino: n.ino} }

func (t *table) find(k key) (uint32, *node) {
	for place := t.buckets[k.hash()%uint64(len(t.buckets))]; place != 0; {
		n := t.at(place)
		if n.ino == k.ino && n.dev == k.dev && n.mount.index == k.mount {
			return place, n
		}
		place = n.next
	}
	return 0, nil
}

func (t *table) insert(k key, m *mount, kind uint16) (uint32, *node) {
	if t.free == 0 {
		t.grow()
	}
	if t.count >= len(t.buckets) {
		t.rehash()
	}
	place := t.free
	n := t.at(place)
	t.free = n.next
	generation := n.generation
	*n = node{ino: k.ino, dev: k.dev, mount: m, fd: -1, mode: kind & unix.S_IFMT, generation: generation, flags: nodeLive | nodeHashed}
	t.count++
	t.hash(place, n)
	return place, n
}

func (t *table) hash(place uint32, n *node) {
	b := n.key().hash() % uint64(len(t.buckets))
	n.next = t.buckets[b]
	t.buckets[b] = place
}

func (t *table) rehash() {
	t.buckets = make([]uint32, 2*len(t.buckets))
	for place := uint32(1); place < t.places(); place++ {
		if n := t.at(place); n.flags&nodeHashed != 0 {
			t.hash(place, n)
		}
	}
}

// unhash makes lookups find it no more.
func (t *table) unhash(place uint32, n *node) {
	if n.flags&nodeHashed == 0 {
		return
	}
	n.flags &^= nodeHashed
	p := &t.buckets[n.key().hash()%uint64(len(t.buckets))]
	for *p != place {
		p = &t.at(*p).next
	}
	*p = n.next
	n.next = 0
}

func (t *table) addRoot(k key, m *mount, fd int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	place, n := t.insert(k, m, unix.S_IFDIR)
	if place != rootPlace {
		panic("passthrough: the root is not the first node")
	}
	n.lookups = 1
	n.fd = int32(fd)
	n.flags |= nodeLasting
}

// release frees a node that nobody has a use for, and its directories that were kept for
// it. What has to be closed is added to fds.
func (t *table) release(place uint32, n *node, fds []int) []int {
	for place != rootPlace && n.flags&nodeLive != 0 && n.lookups == 0 && n.pins == 0 && n.children == 0 {
		t.unhash(place, n)
		t.removeName(place, n)
		if n.fd >= 0 {
			fds = append(fds, int(n.fd))
			t.descriptors--
		}
		parent := n.parent
		if n.flags&nodeWatched != 0 {
			t.unwatched = append(t.unwatched, n.id(place))
		}
		if n.flags&nodeGhost != 0 {
			t.ghosts--
		}
		*n = node{fd: -1, generation: n.generation + 1, next: t.free}
		t.free = place
		t.count--
		if parent == 0 {
			break
		}
		place, n = parent, t.at(parent)
		n.children--
	}
	return fds
}

// setName says where in the tree a node is found again. What it returns has to be closed.
func (t *table) setName(place uint32, n *node, parent uint32, name string) (fds []int) {
	if n.parent == parent && n.again == name {
		return fds
	}
	if parent != n.parent && !t.unring(n, parent) {
		return fds
	}
	t.removeName(place, n)
	old := n.parent
	n.parent, n.again = parent, name
	if parent != 0 {
		t.addName(place, n)
	}
	if parent != old {
		if parent != 0 {
			t.at(parent).children++
		}
		if old != 0 {
			o := t.at(old)
			o.children--
			fds = t.release(old, o, fds)
		}
	}
	return fds
}

// unring makes sure that a node is not above the one that it is to have as its parent. It
// was: then directories were moved, and the one between them that had its name in the node
// has that no more. A ring of nodes that are opened again, each in the next, would have no
// end. It reports false for a parent that is the node itself.
func (t *table) unring(n *node, parent uint32) bool {
	if t.at(parent) == n {
		return false
	}
	if n.children == 0 {
		return true
	}
	for place := parent; place != 0; {
		below := t.at(place)
		above := below.parent
		if above != 0 && t.at(above) == n {
			t.removeName(place, below)
			below.parent, below.again = 0, ""
			n.children--
			return true
		}
		place = above
	}
	return true
}

// setWatched reports whether the node is there.
func (t *table) setWatched(id uint64, watched bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, n := t.live(id)
	switch {
	case n == nil:
		return false
	case watched:
		n.flags |= nodeWatched
	default:
		n.flags &^= nodeWatched
	}
	return true
}

// watchedAbove is whether the directory of a node is watched.
func (t *table) watchedAbove(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, n := t.live(id)
	return n != nil && n.parent != 0 && t.at(n.parent).flags&nodeWatched != 0 && t.at(n.parent).mount == n.mount
}

// takeUnwatched returns the watched nodes that the guest has forgotten since the last
// call.
func (t *table) takeUnwatched() []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := t.unwatched
	t.unwatched = nil
	return ids
}

// forget takes back what the guest was told.
func (t *table) forget(id, count uint64) {
	t.mu.Lock()
	var fds []int
	if place, n := t.get(id); n != nil && place != rootPlace {
		n.lookups -= min(n.lookups, count)
		fds = t.release(place, n, fds)
	}
	t.mu.Unlock()
	closeAll(fds)
}

// reset forgets all nodes but the root.
func (t *table) reset() {
	t.mu.Lock()
	var fds []int
	for place := uint32(rootPlace + 1); place < t.places(); place++ {
		if n := t.at(place); n.flags&nodeLive != 0 {
			n.lookups = 0
			fds = t.release(place, n, fds)
		}
	}
	t.mu.Unlock()
	closeAll(fds)
}

func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for place := range t.places() {
		if n := t.at(place); n.fd >= 0 {
			unix.Close(int(n.fd))
			n.fd = -1
		}
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// Forget implements fuse.RawFileSystem.
func (fs *FileSystem) Forget(id, count uint64) { fs.nodes.forget(id, count) }
