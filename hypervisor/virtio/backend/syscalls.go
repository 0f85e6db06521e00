package backend

import "golang.org/x/sys/unix"

// SystemCalls are those that any back end may make: what Go's runtime does, and
// what the vhost-user protocol, the queues and open sockets take. A role adds its
// own.
//
// Go's runtime asks for some more as it starts, and does without: it opens a file
// for the size of huge pages, and raises its limit of open files.
func SystemCalls() []uintptr {
	return append([]uintptr{
		// The program is executed once, after the filter is there.
		unix.SYS_EXECVEAT,
		// Go's runtime.
		unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLONE, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_FUTEX,
		unix.SYS_GETPID, unix.SYS_GETRANDOM, unix.SYS_GETTID, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_MMAP,
		unix.SYS_MUNMAP, unix.SYS_NANOSLEEP, unix.SYS_PRCTL, unix.SYS_RESTART_SYSCALL, unix.SYS_RT_SIGACTION,
		unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_YIELD,
		unix.SYS_SIGALTSTACK, unix.SYS_TGKILL,
		// go-fuse makes a pipe as any program starts that it is part of, and panics
		// without.
		unix.SYS_PIPE2,
		// Its poller.
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
		// Open files: sockets, event counters, guest memory.
		unix.SYS_CLOSE, unix.SYS_FCNTL, unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKNAME,
		unix.SYS_GETSOCKOPT, unix.SYS_READ, unix.SYS_READV, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_SENDMSG,
		unix.SYS_SENDTO, unix.SYS_SETSOCKOPT, unix.SYS_SHUTDOWN, unix.SYS_WRITE, unix.SYS_WRITEV,
	}, callsHere()...)
}

// loaderCalls are what a program with a loader and a C library needs besides: one
// that was built with cgo.
func loaderCalls() []uintptr {
	return []uintptr{
		unix.SYS_BRK, unix.SYS_MPROTECT, unix.SYS_OPENAT, unix.SYS_PREAD64, unix.SYS_PRLIMIT64, unix.SYS_RSEQ,
		unix.SYS_SET_ROBUST_LIST, unix.SYS_SET_TID_ADDRESS, unix.SYS_GETTIMEOFDAY,
	}
}
