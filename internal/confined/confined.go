// Package confined opens paths below a directory that somebody else writes to. On
// the host that is the guest, in the guest a container: so it stands between the
// two, and knows neither.
package confined

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// attempts is how often a path is resolved before the kernel is taken for too busy.
const attempts = 1000

// Open opens a path with O_PATH as a process would whose root is given, without
// ever leaving root, whatever symbolic links are in its way. resolve is further
// RESOLVE flags of openat2(2), such as RESOLVE_NO_XDEV. The error is the kernel's,
// for the caller to say what was to be opened.
func Open(root *os.File, name string, resolve uint64) (*os.File, error) {
	var fd int
	err := error(unix.EAGAIN)
	// The kernel gives up on a path with ".." when anything on the system was
	// renamed or mounted meanwhile (openat2(2), EAGAIN).
	for try := 0; try < attempts && errors.Is(err, unix.EAGAIN); try++ {
		fd, err = unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
		})
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Clean(name)), nil
}
