package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// dupFile duplicates a descriptor, close-on-exec.
func dupFile(file *os.File) (*os.File, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", file.Name(), err)
	}
	var fd int
	var dupErr error
	err = raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, firstInherited)
	})
	if err = errors.Join(err, dupErr); err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// socketPair returns this process's end as a connection and QEMU's as a file.
func socketPair(name string) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the %s's socket: %w", name, err)
	}
	theirs := os.NewFile(uintptr(fds[1]), name)
	file := os.NewFile(uintptr(fds[0]), name)
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make the %s's socket: %w", name, err)
	}
	ours, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make the %s's socket: got a %T", name, conn)
	}
	return ours, theirs, nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}
