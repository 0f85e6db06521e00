package passthrough

import (
	"errors"
	"math"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// locks are the host's. Each owner of POSIX locks of the guest, and each of its open file
// descriptions with OFD locks, is an open file description here, for each file: the host's
// kernel compares owners as the guest's would, and with others of the host.
type locks struct {
	mu    sync.Mutex
	files map[uint64]*lockedFile // by node
	// ranges is how many all owners have.
	ranges int
	// threads are those of the guest that wait, by the channels that end it.
	threads map[chan struct{}]uint32
}

type lockedFile struct {
	owners  map[uint64]*lockOwner
	waiting map[chan struct{}]bool
}

type lockOwner struct {
	fd   int
	id   uint64 // of the file's node
	fh   uint64 // what it was last used through
	refs int

	mu     sync.Mutex // held while a lock is set; before that of locks
	ranges lockRanges
}

func (l *locks) init() {
	l.files = map[uint64]*lockedFile{}
	l.threads = map[chan struct{}]uint32{}
}

// file is called with l locked.
func (l *locks) file(id uint64) *lockedFile {
	f := l.files[id]
	if f == nil {
		f = &lockedFile{owners: map[uint64]*lockOwner{}, waiting: map[chan struct{}]bool{}}
		l.files[id] = f
	}
	return f
}

// tidy is called with l locked.
func (l *locks) tidy(id uint64) {
	if f := l.files[id]; f != nil && len(f.owners) == 0 && len(f.waiting) == 0 {
		delete(l.files, id)
	}
}

// wait makes a channel that is told when somebody of the guest gives up a lock, and one that
// is told when the thread does not want it any more.
func (l *locks) wait(id uint64, thread uint32) (told, ended chan struct{}) {
	told, ended = make(chan struct{}, 1), make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file(id).waiting[told] = true
	l.threads[ended] = thread
	return told, ended
}

// endWait has a thread of the guest's wait no more.
func (l *locks) endWait(thread uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ended, each := range l.threads {
		if each == thread {
			select {
			case ended <- struct{}{}:
			default:
			}
		}
	}
}

func (l *locks) waitNoMore(id uint64, c, ended chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.threads, ended)
	if f := l.files[id]; f != nil {
		delete(f.waiting, c)
	}
	l.tidy(id)
}

// wake is called with l locked.
func (l *locks) wake(id uint64) {
	if f := l.files[id]; f != nil {
		for c := range f.waiting {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}

// given tells those that wait that a lock was given up.
func (l *locks) given(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wake(id)
}

// unref is called with l locked and returns a descriptor to be closed, or -1.
func (l *locks) unref(o *lockOwner) int {
	o.refs--
	if o.refs > 0 {
		return -1
	}
	l.ranges -= len(o.ranges) // nobody else has it any more
	return o.fd
}

// put gives back an owner.
func (l *locks) put(files *files, o *lockOwner) {
	l.mu.Lock()
	fd := l.unref(o)
	l.mu.Unlock()
	if fd >= 0 {
		files.close(fd, o.id, true)
		files.unreserve(1)
	}
}

// get finds an owner; it stays until put.
func (l *locks) get(id, owner uint64) *lockOwner {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.files[id]; f != nil {
		if o := f.owners[owner]; o != nil {
			o.refs++
			return o
		}
	}
	return nil
}

// has is whether the owner is still the one that the guest means.
func (l *locks) has(id, owner uint64, o *lockOwner) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.files[id]
	return f != nil && f.owners[owner] == o
}

// release gives up all locks of an owner on a file: one of its descriptors was closed.
func (l *locks) release(files *files, id, owner uint64) {
	l.drop(files, id, func(who uint64, _ *lockOwner) bool { return who == owner })
}

// closed gives up the locks of those who had them through fh, which nobody has open any
// more: OFD locks, whose owner it was, and POSIX locks, which end with any close.
func (l *locks) closed(files *files, id, fh uint64) {
	l.drop(files, id, func(_ uint64, o *lockOwner) bool { return o.fh == fh })
}

func (l *locks) drop(files *files, id uint64, which func(uint64, *lockOwner) bool) {
	l.mu.Lock()
	f := l.files[id]
	if f == nil {
		l.mu.Unlock()
		return
	}
	var fds []int
	for who, o := range f.owners {
		if which(who, o) {
			delete(f.owners, who)
			if fd := l.unref(o); fd >= 0 {
				fds = append(fds, fd)
			}
		}
	}
	l.mu.Unlock()
	for _, fd := range fds {
		files.close(fd, id, true)
	}
	files.unreserve(len(fds))
	l.given(id)
	l.mu.Lock()
	l.tidy(id)
	l.mu.Unlock()
}

func (l *locks) reset(files *files) {
	l.mu.Lock()
	var ids []uint64
	for id := range l.files {
		ids = append(ids, id)
	}
	l.mu.Unlock()
	for _, id := range ids {
		l.drop(files, id, func(uint64, *lockOwner) bool { return true })
	}
}

// lockOwner finds an owner, or makes one.
func (fs *FileSystem) lockOwner(in *fuse.LkIn) (*lockOwner, error) {
	l := &fs.locks
	if o := l.get(in.NodeId, in.Owner); o != nil {
		return o, nil
	}
	if !fs.files.reserve() {
		return nil, unix.ENOLCK
	}
	fd, err := fs.openForLocks(in)
	if err != nil {
		fs.files.unreserve(1)
		return nil, err
	}
	l.mu.Lock()
	f := l.file(in.NodeId)
	o := f.owners[in.Owner]
	if o != nil { // somebody was faster
		o.refs++
		l.mu.Unlock()
		fs.files.close(fd, in.NodeId, true)
		fs.files.unreserve(1)
		return o, nil
	}
	o = &lockOwner{fd: fd, id: in.NodeId, fh: in.Fh, refs: 2}
	f.owners[in.Owner] = o
	l.mu.Unlock()
	return o, nil
}

// openForLocks makes an open file description of its own, which may have locks for
// writing where the file may be written to.
func (fs *FileSystem) openForLocks(in *fuse.LkIn) (int, error) {
	f := fs.files.get(in.Fh, in.NodeId)
	if f == nil {
		return -1, unix.EBADF
	}
	defer fs.files.put(f)
	if f.dir != nil {
		return -1, unix.EINVAL
	}
	fd, err := fs.openRetry(func() (int, error) { return openAgain(fs.proc, itoa(f.fd), unix.O_RDWR|unix.O_NONBLOCK, 0) })
	if err == nil || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return fd, err
	}
	return openAgain(fs.proc, itoa(f.fd), unix.O_RDONLY|unix.O_NONBLOCK, 0)
}

// hostLock is a lock as the host's kernel wants it.
func hostLock(lk *fuse.FileLock) (unix.Flock_t, error) {
	if lk.Start > lk.End || lk.End > math.MaxInt64 || lk.Typ > unix.F_UNLCK {
		return unix.Flock_t{}, unix.EINVAL
	}
	h := unix.Flock_t{Type: int16(lk.Typ), Whence: unix.SEEK_SET, Start: int64(lk.Start)}
	if lk.End != math.MaxInt64 {
		h.Len = int64(lk.End-lk.Start) + 1
	}
	return h, nil
}

// GetLk implements fuse.RawFileSystem.
func (fs *FileSystem) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	lk, err := hostLock(&in.Lk)
	if err != nil {
		return status(err)
	}
	o, err := fs.lockOwner(in)
	if err != nil {
		return status(err)
	}
	defer fs.locks.put(&fs.files, o)
	if err := fcntlLock(o.fd, unix.F_OFD_GETLK, &lk); err != nil {
		return status(err)
	}
	out.Lk = fuse.FileLock{Typ: uint32(lk.Type)}
	if lk.Type != unix.F_UNLCK {
		// Who has it cannot be said: 0 is a process that the caller cannot see.
		out.Lk.Start = uint64(lk.Start)
		out.Lk.End = math.MaxInt64
		if lk.Len != 0 {
			out.Lk.End = uint64(lk.Start + lk.Len - 1)
		}
	}
	return fuse.OK
}

func fcntlLock(fd, command int, lk *unix.Flock_t) error {
	return retry(func() error { return unix.FcntlFlock(uintptr(fd), command, lk) })
}

// SetLk implements fuse.RawFileSystem.
func (fs *FileSystem) SetLk(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return status(fs.setLock(in))
}

func (fs *FileSystem) setLock(in *fuse.LkIn) error {
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		return fs.flock(in)
	}
	lk, err := hostLock(&in.Lk)
	if err != nil {
		return err
	}
	if lk.Type == unix.F_UNLCK {
		return fs.unlock(in, lk)
	}
	for {
		o, err := fs.lockOwner(in)
		if err != nil {
			return err
		}
		err = fs.locks.setRange(o, &lk)
		// An owner that closed the file meanwhile took the lock along.
		same := fs.locks.has(in.NodeId, in.Owner, o)
		if same {
			fs.locks.mu.Lock()
			o.fh = in.Fh
			if err == nil && lk.Type == unix.F_RDLCK {
				fs.locks.wake(in.NodeId)
			}
			fs.locks.mu.Unlock()
		}
		fs.locks.put(&fs.files, o)
		if err == nil && !same {
			continue
		}
		if err == nil {
			fs.settle(in.NodeId, o.fd)
		}
		if errors.Is(err, unix.EACCES) {
			return unix.EAGAIN
		}
		return err
	}
}

func (fs *FileSystem) unlock(in *fuse.LkIn, lk unix.Flock_t) error {
	o := fs.locks.get(in.NodeId, in.Owner)
	if o == nil {
		return nil
	}
	defer fs.locks.put(&fs.files, o)
	if lk.Start == 0 && lk.Len == 0 {
		fs.locks.release(&fs.files, in.NodeId, in.Owner)
		return nil
	}
	if err := fs.locks.setRange(o, &lk); err != nil {
		return err
	}
	fs.locks.given(in.NodeId)
	return nil
}

// flock locks what the guest has open itself, as flock(2) does.
func (fs *FileSystem) flock(in *fuse.LkIn) error {
	var how int
	switch in.Lk.Typ {
	case unix.F_RDLCK:
		how = unix.LOCK_SH
	case unix.F_WRLCK:
		how = unix.LOCK_EX
	case unix.F_UNLCK:
		how = unix.LOCK_UN
	default:
		return unix.EINVAL
	}
	f := fs.files.get(in.Fh, in.NodeId)
	if f == nil {
		return unix.EBADF
	}
	defer fs.files.put(f)
	err := retry(func() error { return unix.Flock(f.fd, how|unix.LOCK_NB) })
	if err == nil && how != unix.LOCK_EX {
		fs.locks.given(in.NodeId)
	}
	if err == nil && how != unix.LOCK_UN {
		fs.settle(in.NodeId, f.fd)
	}
	return err
}

// SetLkw implements fuse.RawFileSystem. It lasts until the lock is had, or given up. What
// the guest's own processes give up is told to it; the host's are asked again and again,
// since the kernel's own wait could not be ended.
func (fs *FileSystem) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	if err := fs.setLock(in); !errors.Is(err, unix.EAGAIN) {
		return status(err)
	}
	told, ended := fs.locks.wait(in.NodeId, in.Pid)
	defer fs.locks.waitNoMore(in.NodeId, told, ended)
	const shortest, longest = time.Millisecond, 50 * time.Millisecond
	pause := time.NewTimer(shortest)
	defer pause.Stop()
	for next := shortest; ; next = min(2*next, longest) {
		if err := fs.setLock(in); !errors.Is(err, unix.EAGAIN) {
			return status(err)
		}
		pause.Reset(next)
		select {
		case <-told:
		case <-pause.C:
		case <-ended:
			return fuse.EINTR
		case <-cancel:
			return fuse.EINTR
		case <-fs.closing:
			return fuse.EINTR
		}
	}
}
