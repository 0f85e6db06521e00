package fileserver

import "golang.org/x/sys/unix"

// systemCallsHere are those that other architectures lack, or call otherwise.
func systemCallsHere() []uintptr {
	return []uintptr{unix.SYS_FSTATAT, unix.SYS_GETRLIMIT, unix.SYS_SETRLIMIT}
}
