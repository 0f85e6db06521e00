package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls of programs that were made before there were times of 64 bits.
func calls() []call {
	return []call{
		{"clock_gettime", func() error {
			var now [2]int32
			return without(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&now)))
		}},
		{"nanosleep", func() error {
			short := [2]int32{0, 1}
			return without(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&short)), 0)
		}},
		{"getuid of 16 bits", func() error {
			uid, _, _ := unix.Syscall(unix.SYS_GETUID, 0, 0, 0)
			if uid != 0 {
				return unix.ENOSYS
			}
			return nil
		}},
	}
}

// without makes a system call that returns nothing.
func without(trap, a, b uintptr) error {
	if _, _, errno := unix.Syscall(trap, a, b, 0); errno != 0 {
		return errno
	}
	return nil
}
