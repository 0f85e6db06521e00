package passthrough

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Go's scheduler watches each system call, lest it wait: where all was quiet before, it
// wakes a thread for that, which takes more of the processors than a lookup does. So
// what the kernel answers from memory is asked by calls that the scheduler does not see.
// They are such that cannot wait: for a disk, for a lock that somebody keeps, or for
// another machine. What they cannot answer is asked again in the usual way.

// resolveCached is RESOLVE_CACHED of linux/openat2.h.
const resolveCached = 0x20

// quick is what the host's kernel can do of that.
type quick struct {
	// noCached says that it cannot open what it has in memory alone: before Linux 5.12.
	noCached atomic.Bool
}

// openChild opens a name of a directory as a mere reference, as the function does.
func (q *quick) openChild(dir int, name string) (int, error) {
	if q.noCached.Load() {
		return openChild(dir, name)
	}
	how := beneath()
	how.Resolve |= resolveCached
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return -1, err
	}
	fd, _, e := unix.RawSyscall6(unix.SYS_OPENAT2, uintptr(dir), uintptr(unsafe.Pointer(path)),
		uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
	if e == 0 {
		return int(fd), nil
	}
	if e == unix.ENOENT {
		return -1, e
	}
	if e == unix.EINVAL {
		q.noCached.Store(true)
	}
	return openChild(dir, name)
}

// quickStat is statMore for a file whose file system is not another machine's. What
// such a one would have to ask, it does not.
func quickStat(fd, mask int, st *unix.Statx_t) error {
	var empty [1]byte
	_, _, e := unix.RawSyscall6(unix.SYS_STATX, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, uintptr(mask), uintptr(unsafe.Pointer(st)), 0)
	if e != 0 {
		return e
	}
	return nil
}

// quickStatAt is of a name whose file is in memory if it is still there: somebody has it
// open.
func quickStatAt(dir int, name string, st *unix.Statx_t) error {
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, e := unix.RawSyscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(path)),
		unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, uintptr(statMask), uintptr(unsafe.Pointer(st)), 0)
	if e != 0 {
		return e
	}
	return nil
}

// stat is statMore for a file of the mount.
func (m *mount) stat(fd, mask int, st *unix.Statx_t) error {
	if m.remote {
		return statMore(fd, mask, st)
	}
	return quickStat(fd, mask, st)
}

// statChild is statFD for a file in a directory of the mount.
func (m *mount) statChild(fd int, st *unix.Statx_t) error {
	if !m.remote {
		if err := quickStat(fd, statMask, st); err != nil || st.Mnt_id == m.id {
			return err
		}
	}
	return statFD(fd, st)
}

// quickRead reads what the kernel has in memory, all or nothing, and reports whether
// that was so.
func (f *file) quickRead(dst [][]byte, off int64) (int, bool) {
	const most, largest = 16, 64 << 10
	if f.mount.remote || len(dst) > most || f.slow.Load() {
		return 0, false
	}
	var vectors [most]unix.Iovec
	count, size := 0, 0
	for _, part := range dst {
		if len(part) > 0 {
			vectors[count].Base = &part[0]
			vectors[count].SetLen(len(part))
			count++
			size += len(part)
		}
	}
	if size == 0 || size > largest {
		return 0, false
	}
	r, _, e := unix.RawSyscall6(unix.SYS_PREADV2, uintptr(f.fd), uintptr(unsafe.Pointer(&vectors[0])), uintptr(count),
		uintptr(off), 0, unix.RWF_NOWAIT)
	if e == unix.EOPNOTSUPP {
		f.slow.Store(true)
	}
	n := int(r)
	if e != 0 || n < size && !f.endsAt(off+int64(n)) {
		return 0, false
	}
	return n, true
}

// endsAt is whether there is nothing to read from an offset on.
func (f *file) endsAt(off int64) bool {
	var st unix.Statx_t
	return quickStat(f.fd, unix.STATX_SIZE, &st) == nil && int64(st.Size) <= off
}

const (
	// longOpen is longer than it takes to open a file that nobody looks at first: a
	// virus scanner of the host, say. Then no file of the mount is opened past the
	// scheduler for openPause.
	longOpen  = 2 * time.Millisecond
	openPause = time.Second
)

// openToRead opens a regular file for reading that is open as a mere reference: its inode
// is in memory. It reports false where that takes the usual way.
func (m *mount) openToRead(proc int, self string, flags int, now time.Time) (int, bool) {
	if m.remote || flags&(unix.O_ACCMODE|unix.O_TRUNC|unix.O_DIRECT) != unix.O_RDONLY || now.UnixNano() < m.noQuickOpen.Load() {
		return -1, false
	}
	path, err := unix.BytePtrFromString(self)
	if err != nil {
		return -1, false
	}
	// O_NONBLOCK, which flags have, does not wait for who has a lease either.
	fd, _, e := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(proc), uintptr(unsafe.Pointer(path)),
		uintptr(flags|unix.O_CLOEXEC|unix.O_NOCTTY), 0, 0, 0)
	if time.Since(now) > longOpen {
		m.noQuickOpen.Store(now.Add(openPause).UnixNano())
	}
	return int(fd), e == 0
}

// closeTwin closes a descriptor of a file of which there is another one: the file does
// not end with it.
func closeTwin(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }
