package passthrough

import (
	"time"

	"golang.org/x/sys/unix"
)

// Where a name holds for no time, a path takes a request for each of its parts, each time.
// Those of directories are spared where the guest walks about: a directory's name holds
// briefly if it was asked for a moment ago as well. What is asked in that directory then,
// which is at the end of each path, is answered only if the directories above still have
// the names by which the guest has come: otherwise with ESTALE, upon which Linux walks the
// path again and asks for each name.
//
// Whoever has come in another way, by a descriptor or from a working directory, asks again
// as well, and is answered. So a request is refused once; twice where the guest knows a
// file by the name already, since Linux then takes the first refusal for the end of that
// name, and asks for it once more. What is found is so where it was found, but for a
// directory itself, of which nothing is asked, and for several that walk there at once: one
// may be answered for the other's refusal. They see what is as old as a name may be.

// walking is how soon names are asked for again by who walks about.
const walking = 50 * time.Millisecond

// holdsBriefly is whether the name of a directory that was just looked up in dir holds for
// a moment. The table is locked.
func (fs *FileSystem) holdsBriefly(dir held, n *node, now time.Time) bool {
	m := n.mount
	if !m.cache.Paths || n.mode != unix.S_IFDIR || m != dir.node.mount || m.handles || m.remote || n.parent != dir.place {
		return false
	}
	c := fs.clock(now)
	again := n.toldSeen != 0 && c-n.toldSeen < uint32(walking/time.Millisecond)
	n.flags &^= nodeRefused
	if n.toldSeen = c; again {
		n.told = c
	}
	return again
}

// onPath is ESTALE for a directory that the guest may have come to by names that are not
// its own any more. name is what it looks up there, or empty.
func (fs *FileSystem) onPath(dir held, name string) error {
	if !dir.node.mount.cache.Paths {
		return nil
	}
	t := &fs.nodes
	now := fs.clock(time.Now())
	t.mu.Lock()
	for place := dir.place; ; {
		n := t.at(place)
		parent, own, m := n.parent, n.again, n.mount
		if n.told == 0 || now-n.told > uint32(briefMost/time.Millisecond) || parent == 0 {
			t.mu.Unlock()
			return nil
		}
		want := n.key()
		above, err := fs.pin(parent, t.at(parent)) // which unlocks
		if err == nil {
			var st unix.Statx_t
			err = quickStatAt(above.fd, own, &st)
			if err == nil && (st.Ino != want.ino || device(&st) != want.dev || st.Mnt_id != m.id) {
				err = unix.ESTALE
			}
			fs.drop(above)
		}
		t.mu.Lock()
		if err != nil {
			if n.flags&nodeRefused == 0 && name != "" && t.isNamed(dir.place, name) {
				n.flags |= nodeRefused
			} else {
				n.told = 0
				n.flags &^= nodeRefused
			}
			t.mu.Unlock()
			return unix.ESTALE
		}
		place = parent
	}
}

// hereByPath is hold for what is asked of a directory at the end of a path, and of a name
// there, if it is not empty.
func (fs *FileSystem) hereByPath(id uint64, name string) (held, error) {
	dir, err := fs.hold(id)
	if err != nil {
		return held{}, err
	}
	if err := fs.onPath(dir, name); err != nil {
		fs.drop(dir)
		return held{}, err
	}
	return dir, nil
}
