package passthrough

import (
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const statMask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID

// statFD fills st with what is known of an open file, which may be open with O_PATH.
func statFD(fd int, st *unix.Statx_t) error { return statMore(fd, statMask, st) }

func statMore(fd, mask int, st *unix.Statx_t) error {
	var empty [1]byte
	for {
		_, _, e := unix.Syscall6(unix.SYS_STATX, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
			unix.AT_EMPTY_PATH|unix.AT_STATX_SYNC_AS_STAT, uintptr(mask), uintptr(unsafe.Pointer(st)), 0)
		switch e {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return e
		}
	}
}

// device is the number of the device as one value.
func device(st *unix.Statx_t) uint64 { return uint64(st.Dev_major)<<32 | uint64(st.Dev_minor) }

// retry repeats a call that a signal of Go's scheduler has cut short.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openChild opens a name of a directory as a mere reference, whatever it is. A symbolic
// link is opened itself.
func openChild(dir int, name string) (int, error) {
	how := beneath()
	for {
		fd, err := unix.Openat2(dir, name, &how)
		// EAGAIN: something was renamed or mounted meanwhile.
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// beneath opens a mere reference to what is in a directory.
func beneath() unix.OpenHow {
	return unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
}

// checkName refuses what is no name of a directory's entry.
func checkName(name string) error {
	const longest = 255
	switch {
	case name == "" || name == "." || name == "..":
		return unix.EINVAL
	case len(name) > longest:
		return unix.ENAMETOOLONG
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return unix.EINVAL
		}
	}
	return nil
}

// openAgain opens a file by a name that cannot lead anywhere else: that of a descriptor in
// procfs, or of a file that is made by the call.
func openAgain(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOCTTY, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func itoa(fd int) string { return strconv.Itoa(fd) }
