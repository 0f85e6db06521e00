package fileserver

import "golang.org/x/sys/unix"

// systemCallsHere are those that other architectures lack.
func systemCallsHere() []uintptr {
	return []uintptr{
		unix.SYS_ARCH_PRCTL, unix.SYS_EPOLL_WAIT, unix.SYS_GETRLIMIT, unix.SYS_NEWFSTATAT, unix.SYS_POLL,
		unix.SYS_READLINK, unix.SYS_SETRLIMIT,
	}
}
