package device

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open opens the host's block device with a number, whether /dev shows it to
// this process or not. readOnly of the result also says whether the host's
// kernel lets nobody write to it. A device that does not exist is an error that
// wraps unix.ENXIO.
func Open(major, minor uint32, readOnly bool) (file *os.File, isReadOnly bool, err error) {
	if !readOnly {
		file, err = open(major, minor, unix.O_RDWR)
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
			readOnly = true
		}
	}
	if readOnly {
		file, err = open(major, minor, unix.O_RDONLY)
	}
	if err != nil {
		return nil, false, fmt.Errorf("open the host's block device %d:%d: %w", major, minor, err)
	}
	if !readOnly {
		// Some drivers let a read-only device be opened for writing.
		flag, err := unix.IoctlGetInt(int(file.Fd()), unix.BLKROGET)
		if err != nil {
			file.Close()
			return nil, false, fmt.Errorf("ask the host's block device %d:%d whether it is read-only: %w", major, minor, err)
		}
		if flag != 0 {
			file.Close()
			return Open(major, minor, true)
		}
	}
	return file, readOnly, nil
}

// open makes a node of the device for a moment, in a file system that nobody
// else can see: a number has no path for certain, and the state directory may
// be on a file system without devices.
func open(major, minor uint32, flags int) (*os.File, error) {
	root, err := privateTmpfs()
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	const name = "device"
	if err := unix.Mknodat(root, name, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return nil, fmt.Errorf("make a node: %w", err)
	}
	fd, err := unix.Openat(root, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("block device %d:%d", major, minor)), nil
}

// privateTmpfs returns the root of a tmpfs that is mounted nowhere and goes with
// its last descriptor.
func privateTmpfs() (int, error) {
	context, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make a private tmpfs: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fmt.Errorf("make a private tmpfs: %w", err)
	}
	root, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a private tmpfs: %w", err)
	}
	return root, nil
}
