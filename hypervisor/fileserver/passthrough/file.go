package passthrough

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// file is what the guest has open.
type file struct {
	fd    int
	id    uint64 // of its node
	mount *mount
	refs  atomic.Int32
	dir   *directory  // of a directory alone
	slow  atomic.Bool // reads are not answered from memory alone
	reads bool        // of a local file system, and only reads it
	// writes is whether it may be written, as the host tells when it is closed.
	writes bool
}

// files are numbered; a number is not used twice.
type files struct {
	mu    sync.RWMutex
	open  map[uint64]*file
	last  uint64
	more  int // descriptors that count as open: those of owners of locks
	limit int
	nodes *table      // which know how often they are open
	fs    *FileSystem // whose guest is told of changes; nil for none
}

func (t *files) init(nodes *table) {
	t.open = map[uint64]*file{}
	t.nodes = nodes
}

// add takes the descriptor over, or closes it.
func (t *files) add(f *file) (uint64, error) {
	f.refs.Store(1)
	t.mu.Lock()
	if len(t.open)+t.more >= t.limit {
		t.mu.Unlock()
		unix.Close(f.fd)
		return 0, unix.ENFILE
	}
	t.last++
	fh := t.last
	t.open[fh] = f
	t.mu.Unlock()
	t.nodes.opened(f.id, 1)
	return fh, nil
}

// reserve counts one descriptor more, if there may be.
func (t *files) reserve() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open)+t.more >= t.limit {
		return false
	}
	t.more++
	return true
}

func (t *files) unreserve(n int) {
	t.mu.Lock()
	t.more -= n
	t.mu.Unlock()
}

// get finds what the guest has open of a node; it stays open until put.
func (t *files) get(fh, id uint64) *file {
	t.mu.RLock()
	defer t.mu.RUnlock()
	f := t.open[fh]
	if f == nil || f.id != id {
		return nil
	}
	f.refs.Add(1)
	return f
}

func (t *files) put(f *file) {
	if f.refs.Add(-1) == 0 {
		t.close(f.fd, f.id, f.writes)
	}
}

// close closes a descriptor of a node.
func (t *files) close(fd int, id uint64, writes bool) {
	if !writes || t.fs == nil {
		unix.Close(fd)
		return
	}
	x := t.fs.expectChange(id, unix.IN_CLOSE_WRITE)
	unix.Close(fd)
	x.done(true)
}

// putTwin is put for a file of which there may be another descriptor, that of its node.
func (t *files) putTwin(f *file, another bool) {
	if !f.reads || !another {
		t.put(f)
		return
	}
	if f.refs.Add(-1) == 0 {
		closeTwin(f.fd)
	}
}

func (t *files) remove(fh, id uint64) {
	t.mu.Lock()
	f := t.open[fh]
	if f == nil || f.id != id {
		t.mu.Unlock()
		return
	}
	delete(t.open, fh)
	t.mu.Unlock()
	t.putTwin(f, t.nodes.opened(id, -1))
}

func (t *files) reset() {
	t.mu.Lock()
	old := t.open
	t.open = map[uint64]*file{}
	t.mu.Unlock()
	for _, f := range old {
		t.put(f)
	}
}

// with runs f with a descriptor that the guest has open.
func (fs *FileSystem) with(fh, id uint64, f func(fd int) error) fuse.Status {
	open := fs.files.get(fh, id)
	if open == nil {
		return fuse.EBADF
	}
	defer fs.files.put(open)
	return status(retry(func() error { return f(open.fd) }))
}

// changing is with, for what changes the file.
func (fs *FileSystem) changing(fh, id uint64, f func(fd int) error) fuse.Status {
	if fs.options.ReadOnly {
		return fuse.EROFS
	}
	return fs.with(fh, id, f)
}

// openFlags are the guest's flags as far as they are for the host. Those that are wanted
// have the same value on every architecture; O_DIRECT, O_DIRECTORY, O_NOFOLLOW and
// O_LARGEFILE do not: on arm64, O_DIRECT has the value that is O_DIRECTORY here.
func (fs *FileSystem) openFlags(flags uint32) int {
	const wanted = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME
	f := int(flags) & wanted
	if fs.options.DirectIO {
		f |= int(flags) & unix.O_DIRECT // of a guest with the host's architecture
	}
	if fs.options.Writeback {
		// The guest's kernel reads what it writes in part, and knows where the end is.
		if f&unix.O_ACCMODE == unix.O_WRONLY {
			f = f&^unix.O_ACCMODE | unix.O_RDWR
		}
		f &^= unix.O_APPEND
	}
	return f | unix.O_NONBLOCK
}

// openFlags are the answer to an open.
func (d DataCache) openFlags(unchanged bool) uint32 {
	const parallel = fuse.FOPEN_PARALLEL_DIRECT_WRITES
	switch d {
	case DataNever:
		return fuse.FOPEN_DIRECT_IO | parallel
	case DataAlways:
		return fuse.FOPEN_KEEP_CACHE | parallel
	case DataAuto:
		if unchanged {
			return fuse.FOPEN_KEEP_CACHE | parallel
		}
	}
	return parallel
}

// Open implements fuse.RawFileSystem.
func (fs *FileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return status(fs.open(in, out))
}

func (fs *FileSystem) open(in *fuse.OpenIn, out *fuse.OpenOut) error {
	if fs.options.ReadOnly && in.Flags&(unix.O_ACCMODE|unix.O_TRUNC) != unix.O_RDONLY {
		return unix.EROFS
	}
	h, err := fs.hold(in.NodeId)
	if err != nil {
		if kind, ok := fs.ghostKind(in.NodeId); ok {
			return fs.openGhost(in, kind, out)
		}
		return err
	}
	defer fs.drop(h)
	// A device would be the host's, a FIFO would wait for one.
	switch h.node.mode {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return unix.EISDIR
	default:
		return unix.ENXIO
	}
	if fs.marked(&in.InHeader) {
		*out = fuse.OpenOut{Fh: replayHandle}
		return nil
	}
	now, self, flags := time.Now(), itoa(h.fd), fs.openFlags(in.Flags)
	fd, opened := h.node.mount.openToRead(fs.proc, self, flags, now)
	open := func() error {
		var err error
		fd, err = fs.openRetry(func() (int, error) { return openAgain(fs.proc, self, flags, 0) })
		return err
	}
	if !opened {
		var x expected
		if flags&unix.O_TRUNC != 0 {
			x = fs.expectChange(in.NodeId, unix.IN_MODIFY)
		}
		err := fs.creds.changed(h.fd, in.Mode&fuse.OPEN_KILL_SUIDGID != 0, open)
		if x.done(err == nil); err != nil {
			return err
		}
	}
	unchanged := h.node.mount.cache.Data == DataAuto && fs.unchanged(h.node, fd)
	fh, err := fs.files.add(&file{fd: fd, id: in.NodeId, mount: h.node.mount, reads: opened, writes: flags&unix.O_ACCMODE != unix.O_RDONLY})
	if err != nil {
		return err
	}
	*out = fuse.OpenOut{Fh: fh, OpenFlags: h.node.mount.cache.Data.openFlags(unchanged)}
	return nil
}

// unchanged is whether a file has the content that it had when it was last opened.
func (fs *FileSystem) unchanged(n *node, fd int) bool {
	var st unix.Statx_t
	if err := n.mount.stat(fd, statMask, &st); err != nil {
		return false
	}
	now := signature(&st, time.Now())
	t := &fs.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	before := n.seen
	n.seen = now
	return now != 0 && now == before
}

// signature is a value that is another one once a file has been changed, and 0 where a
// change could still leave all times as they are.
func signature(st *unix.Statx_t, now time.Time) uint64 {
	const tick = 20 * time.Millisecond // twice that of the coarsest kernel clock
	changed := time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec))
	if now.Sub(changed) < tick {
		return 0
	}
	k := key{dev: uint64(changed.UnixNano()), ino: uint64(st.Mtime.Sec)*1e9 + uint64(st.Mtime.Nsec)}
	return k.hash() ^ st.Size<<1 | 1
}

// readResult reads when the protocol's server knows where to.
type readResult struct {
	files *files
	file  *file
	off   int64
	size  int
}

func (r *readResult) Size() int { return r.size }

func (r *readResult) Done() { r.files.put(r.file) }

// Bytes reads into a buffer of the server's.
func (r *readResult) Bytes(buf []byte) ([]byte, fuse.Status) {
	n := 0
	err := retry(func() (err error) {
		n, err = unix.Pread(r.file.fd, buf[:min(len(buf), r.size)], r.off)
		return err
	})
	return buf[:max(n, 0)], status(err)
}

// Readv reads into the guest's memory.
func (r *readResult) Readv(dst [][]byte) (int, fuse.Status) {
	if n, ok := r.file.quickRead(dst, r.off); ok {
		return n, fuse.OK
	}
	total := 0
	for len(dst) > 0 {
		part := dst[:min(len(dst), maxVectors)]
		n := 0
		err := retry(func() (err error) {
			n, err = unix.Preadv(r.file.fd, part, r.off+int64(total))
			return err
		})
		if err != nil {
			return total, status(err)
		}
		total += n
		if n < length(part) {
			break
		}
		dst = dst[len(part):]
	}
	return total, fuse.OK
}

const maxVectors = 1024

func length(vectors [][]byte) int {
	n := 0
	for _, v := range vectors {
		n += len(v)
	}
	return n
}

// Read implements fuse.RawFileSystem. It uses no buffer: its result does.
func (fs *FileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	if int64(in.Offset) < 0 {
		return nil, fuse.EINVAL
	}
	if fs.IsEvents(in.Fh) {
		text, code := fs.ReadEvents(in.Size)
		return fuse.ReadResultData(text), code
	}
	f := fs.files.get(in.Fh, in.NodeId)
	if f == nil {
		return nil, fuse.EBADF
	}
	return &readResult{files: &fs.files, file: f, off: int64(in.Offset), size: int(in.Size)}, fuse.OK
}

// Write implements fuse.RawFileSystem.
func (fs *FileSystem) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return fs.Writev(cancel, in, [][]byte{data})
}

// Writev implements fuse.RawFileSystem.
func (fs *FileSystem) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if int64(in.Offset) < 0 {
		return 0, fuse.EINVAL
	}
	total := 0
	x := fs.expectChange(in.NodeId, unix.IN_MODIFY)
	code := fs.changing(in.Fh, in.NodeId, func(fd int) error {
		return fs.creds.changed(fd, in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0, func() error {
			return writeAll(fd, data, int64(in.Offset), &total)
		})
	})
	x.done(total > 0)
	if total > 0 {
		return uint32(total), fuse.OK
	}
	return 0, code
}

func writeAll(fd int, data [][]byte, off int64, total *int) error {
	for len(data) > 0 {
		part := data[:min(len(data), maxVectors)]
		n, err := unix.Pwritev(fd, part, off+int64(*total))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		*total += n
		if n < length(part) {
			break
		}
		data = data[len(part):]
	}
	return nil
}

// Release implements fuse.RawFileSystem.
func (fs *FileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if in.Fh >= replayHandle {
		return
	}
	fs.files.remove(in.Fh, in.NodeId)
	fs.locks.closed(&fs.files, in.NodeId, in.Fh)
}

// Flush implements fuse.RawFileSystem: a process has closed the file.
func (fs *FileSystem) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	if in.Fh >= replayHandle {
		return fuse.OK
	}
	fs.locks.release(&fs.files, in.NodeId, in.LockOwner)
	f := fs.files.get(in.Fh, in.NodeId)
	if f == nil {
		return fuse.EBADF
	}
	defer fs.files.put(f)
	if !f.mount.remote {
		return fuse.OK
	}
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return status(err)
	}
	return status(unix.Close(fd))
}

// Fsync implements fuse.RawFileSystem.
func (fs *FileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fs.with(in.Fh, in.NodeId, func(fd int) error {
		if in.FsyncFlags&1 != 0 {
			return unix.Fdatasync(fd)
		}
		return unix.Fsync(fd)
	})
}

// FsyncDir implements fuse.RawFileSystem.
func (fs *FileSystem) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fs.Fsync(cancel, in)
}

// SyncFS writes all of the file system of a node to its disk: FUSE_SYNCFS, which the
// protocol's server does not know.
func (fs *FileSystem) SyncFS(id uint64) fuse.Status {
	h, err := fs.hold(id)
	if err != nil {
		return status(err)
	}
	defer fs.drop(h)
	if h.node.mode != unix.S_IFDIR && h.node.mode != unix.S_IFREG {
		return fuse.OK
	}
	fd, err := openAgain(fs.proc, itoa(h.fd), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return status(err)
	}
	defer unix.Close(fd)
	return status(retry(func() error { return unix.Syncfs(fd) }))
}

// Fallocate implements fuse.RawFileSystem. The message does not say whether set-user-id
// bits end: they do for whoever is not root.
func (fs *FileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	x := fs.expectChange(in.NodeId, unix.IN_MODIFY)
	code := fs.changing(in.Fh, in.NodeId, func(fd int) error {
		return fs.creds.changed(fd, in.Uid != 0, func() error {
			return unix.Fallocate(fd, in.Mode, int64(in.Offset), int64(in.Length))
		})
	})
	x.done(code.Ok())
	return code
}

// Lseek implements fuse.RawFileSystem. The kernel asks for data and holes alone; nobody
// uses the descriptor's position.
func (fs *FileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	return fs.with(in.Fh, in.NodeId, func(fd int) error {
		off, err := unix.Seek(fd, int64(in.Offset), int(in.Whence))
		out.Offset = uint64(off)
		return err
	})
}

// CopyFileRange implements fuse.RawFileSystem.
func (fs *FileSystem) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	const most = 1 << 30 // of one request, so that it ends
	n := 0
	from := fs.files.get(in.FhIn, in.NodeId)
	if from == nil {
		return 0, fuse.EBADF
	}
	defer fs.files.put(from)
	x := fs.expectChange(in.NodeIdOut, unix.IN_MODIFY)
	code := fs.changing(in.FhOut, in.NodeIdOut, func(to int) error {
		var err error
		offIn, offOut := int64(in.OffIn), int64(in.OffOut)
		return fs.creds.changed(to, in.Uid != 0, func() error {
			n, err = unix.CopyFileRange(from.fd, &offIn, to, &offOut, int(min(in.Len, most)), int(in.Flags))
			return err
		})
	})
	x.done(n > 0)
	return uint32(max(n, 0)), code
}
