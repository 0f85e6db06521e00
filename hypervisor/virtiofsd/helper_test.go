package virtiofsd

import (
	"os"

	"golang.org/x/sys/unix"
)

// dup duplicates a file, as a VMM's driver does.
func dup(file *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}
