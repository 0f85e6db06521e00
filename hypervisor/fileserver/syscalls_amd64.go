package fileserver

import "golang.org/x/sys/unix"

// systemCallsHere are those that other architectures lack.
func systemCallsHere() []uintptr {
	return []uintptr{unix.SYS_GETRLIMIT, unix.SYS_POLL, unix.SYS_SETRLIMIT}
}
