package qemu

import "golang.org/x/sys/unix"

// callsHere are those that newer architectures have under one name alone.
func callsHere() []uintptr {
	return []uintptr{
		unix.SYS_ACCESS, unix.SYS_ARCH_PRCTL, unix.SYS_DUP2, unix.SYS_EPOLL_CREATE, unix.SYS_EPOLL_WAIT, unix.SYS_EVENTFD,
		unix.SYS_GETDENTS, unix.SYS_GETPGRP, unix.SYS_LSTAT, unix.SYS_NEWFSTATAT, unix.SYS_OPEN, unix.SYS_PIPE, unix.SYS_POLL, unix.SYS_READLINK,
		unix.SYS_SELECT, unix.SYS_SIGNALFD, unix.SYS_STAT, unix.SYS_TIME,
	}
}
