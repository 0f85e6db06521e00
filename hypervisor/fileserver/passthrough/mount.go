package passthrough

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// mount is a mount of the host that the guest has come to.
type mount struct {
	id     uint64 // as mountinfo has it, used again when it is gone
	unique uint64 // never used again; 0 where the kernel has none
	index  uint32
	parent uint64
	// lasting mounts have their files remembered by descriptors.
	lasting bool
	// handles is whether files can be opened by handle through fd, a directory of it.
	handles bool
	fdMu    sync.RWMutex
	fd      int
	cache   Cache
	noACL   atomic.Bool // the file system has no ACLs
	remote  bool        // errors of writing are told at close
	gone    atomic.Bool
	// noQuickOpen is until when files are opened in the usual way, in nanoseconds.
	noQuickOpen atomic.Int64
}

type mounts struct {
	mu       sync.Mutex
	byID     map[uint64]*mount
	last     uint32
	root     uint64
	rootPath string
	wake     int // ends the watch
}

func (m *mounts) init() {
	m.byID = map[uint64]*mount{}
	m.wake = -1
}

func (m *mounts) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, each := range m.byID {
		each.close()
	}
	clear(m.byID)
	if m.wake >= 0 {
		unix.Close(m.wake)
	}
}

func (m *mount) close() {
	m.fdMu.Lock()
	defer m.fdMu.Unlock()
	if m.fd >= 0 {
		unix.Close(m.fd)
		m.fd = -1
	}
}

func (m *mount) openHandle(again string) (int, error) {
	m.fdMu.RLock()
	defer m.fdMu.RUnlock()
	if m.fd < 0 {
		return -1, unix.ESTALE
	}
	return openHandle(m.fd, again)
}

func (fs *FileSystem) addRootMount(st *unix.Statx_t, fd int) *mount {
	ms := &fs.mounts
	ms.root = st.Mnt_id
	ms.rootPath, _ = os.Readlink(fs.procFD + strconv.Itoa(fd))
	m := &mount{id: st.Mnt_id, unique: uniqueMount(fd), lasting: true, fd: -1, cache: fs.cacheFor(RootMount), remote: isRemote(fd)}
	fs.findHandles(m, fd, st)
	ms.byID[m.id] = m
	return m
}

func uniqueMount(fd int) uint64 {
	var st unix.Statx_t
	if err := statMore(fd, unix.STATX_MNT_ID_UNIQUE, &st); err != nil || st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		return 0
	}
	return st.Mnt_id
}

// mountOf is the mount of a file that was found in a directory of the mount from.
func (fs *FileSystem) mountOf(from *mount, fd int, st *unix.Statx_t) *mount {
	if st.Mnt_id == from.id && !from.gone.Load() {
		return from
	}
	unique := uniqueMount(fd)
	ms := &fs.mounts
	ms.mu.Lock()
	m := ms.byID[st.Mnt_id]
	ms.mu.Unlock()
	if m != nil && m.unique == unique {
		return m
	}
	fresh := &mount{id: st.Mnt_id, unique: unique, fd: -1, cache: fs.options.Cache, remote: isRemote(fd)}
	fs.describe(fresh)
	if fresh.lasting {
		fs.findHandles(fresh, fd, st)
	}
	ms.mu.Lock()
	if m = ms.byID[st.Mnt_id]; m != nil && m.unique == unique {
		ms.mu.Unlock()
		fresh.close()
		return m
	}
	ms.last++
	fresh.index = ms.last
	ms.byID[st.Mnt_id] = fresh
	ms.mu.Unlock()
	if m != nil {
		fs.leave(m)
	}
	return fresh
}

// describe finds out where a mount is, and so how it is to be treated.
func (fs *FileSystem) describe(m *mount) {
	table, err := fs.readMounts()
	if err != nil {
		fs.log.Warn("cannot read the mounts of this process: mounts below the root are served without descriptors",
			"error", err)
		return
	}
	ms := &fs.mounts
	depth := 0
	for id := m.id; id != ms.root; depth++ {
		entry, ok := table[id]
		if !ok || depth > len(table) {
			return
		}
		id = entry.parent
	}
	m.lasting = depth <= fs.options.Lasting
	m.parent = table[m.id].parent
	point := table[m.id].point
	if ms.rootPath != "/" {
		point = strings.TrimPrefix(point, ms.rootPath)
	}
	m.cache = fs.cacheFor(strings.TrimPrefix(point, "/"))
}

// cacheFor is how long the guest may rely on what it was told of a mount's files.
func (fs *FileSystem) cacheFor(mountPoint string) Cache {
	if fs.options.CacheFor != nil {
		if c, ok := fs.options.CacheFor(mountPoint); ok {
			return c
		}
	}
	return fs.options.Cache
}

// isRemote is whether a file system keeps back what was written until a file is closed.
func isRemote(fd int) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false
	}
	switch st.Type {
	case unix.NFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC,
		unix.CEPH_SUPER_MAGIC, unix.V9FS_MAGIC, unix.AFS_FS_MAGIC, unix.AFS_SUPER_MAGIC:
		return true
	}
	return false
}

// findHandles finds out whether the files of a mount can be opened by handle.
func (fs *FileSystem) findHandles(m *mount, fd int, st *unix.Statx_t) {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || fs.options.Watch {
		return
	}
	again, err := fileHandle(fd)
	if err != nil {
		return
	}
	dir, err := unix.Openat(fs.proc, strconv.Itoa(fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	try, err := openHandle(dir, again)
	if err != nil {
		unix.Close(dir)
		return
	}
	unix.Close(try)
	m.fd, m.handles = dir, true
}

type mountInfo struct {
	parent uint64
	point  string
}

func (fs *FileSystem) readMounts() (map[uint64]mountInfo, error) {
	f, err := os.Open(fs.options.Proc + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	table := map[uint64]mountInfo{}
	lines := bufio.NewScanner(f)
	const longest = 1 << 20 // overlayfs lists its layers
	lines.Buffer(make([]byte, 0, 4096), longest)
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), " ", 6)
		if len(fields) < 6 {
			return nil, fmt.Errorf("%s: unknown line %q", f.Name(), lines.Text())
		}
		id, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: mount id: %w", f.Name(), err)
		}
		parent, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: parent's mount id: %w", f.Name(), err)
		}
		table[id] = mountInfo{parent: parent, point: unescape(fields[4])}
	}
	return table, lines.Err()
}

// unescape undoes the kernel's octal escapes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// watchMounts drops what is remembered of mounts as they go.
func (fs *FileSystem) watchMounts() {
	// An os.File would be watched by Go's own poller, which would see the changes first:
	// the kernel tells of each once for each open file.
	table, err := unix.Open(fs.options.Proc+"/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fs.log.Warn("cannot watch the mounts of this process: files of mounts that go are remembered until the guest forgets them",
			"error", err)
		return
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(table)
		fs.log.Warn("cannot watch the mounts of this process", "error", err)
		return
	}
	fs.mounts.wake = wake
	fs.watching.Go(func() {
		<-fs.closing
		one := [8]byte{1}
		_, _ = unix.Write(wake, one[:])
	})
	fs.watching.Go(func() {
		defer unix.Close(table)
		poll := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}, {Fd: int32(wake), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
				fs.log.Warn("cannot watch the mounts of this process any more", "error", err)
				return
			}
			if poll[1].Revents != 0 {
				return
			}
			if poll[0].Revents != 0 {
				fs.dropGone()
			}
		}
	})
}

// dropGone leaves the mounts that are no more.
func (fs *FileSystem) dropGone() {
	ms := &fs.mounts
	ms.mu.Lock()
	before := maps.Clone(ms.byID) // what is found meanwhile may be newer than the table
	ms.mu.Unlock()
	table, err := fs.readMounts()
	if err != nil {
		fs.log.Warn("cannot read the mounts of this process", "error", err)
		return
	}
	var gone []*mount
	ms.mu.Lock()
	for id, m := range before {
		if _, ok := table[id]; !ok && id != ms.root && m.parent != 0 {
			gone = append(gone, m)
			if ms.byID[id] == m {
				delete(ms.byID, id)
			}
		}
	}
	ms.mu.Unlock()
	for _, m := range gone {
		fs.leave(m)
	}
}

// leave closes all descriptors of a mount that nobody uses now; what is open stays so.
func (fs *FileSystem) leave(m *mount) {
	m.gone.Store(true)
	t := &fs.nodes
	var fds []int
	t.mu.Lock()
	for place := uint32(rootPlace + 1); place < t.places(); place++ {
		n := t.at(place)
		if n.mount == m && n.fd >= 0 && n.pins == 0 {
			fds = append(fds, int(n.fd))
			n.fd = -1
			t.descriptors--
		}
	}
	t.mu.Unlock()
	closeAll(fds)
	m.close()
}
