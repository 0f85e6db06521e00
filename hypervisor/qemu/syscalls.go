package qemu

import (
	"slices"

	"golang.org/x/sys/unix"
)

// systemCalls are those that a jailed QEMU may make: what it does as the machine
// that Arguments describe, with some margin for other versions of it, of the C
// library and of the kernel, in what is done with memory, threads, time and open
// files. QEMU's own -sandbox then takes back that it can start a program.
//
// The tests' QEMU 7.2 asks for two that it does not get, and does without: clone3,
// and io_uring, in which the kernel has had many holes.
func systemCalls() []uintptr {
	return slices.Concat(fileCalls(), memoryCalls(), threadCalls(), eventCalls(), callsHere())
}

// fileCalls open files of the jail and use open ones: disks, taps, vhost and KVM.
func fileCalls() []uintptr {
	return []uintptr{
		unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_COPY_FILE_RANGE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_FACCESSAT,
		unix.SYS_FACCESSAT2, unix.SYS_FADVISE64, unix.SYS_FALLOCATE, unix.SYS_FCHDIR, unix.SYS_FCNTL, unix.SYS_FDATASYNC,
		unix.SYS_FLOCK, unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_FSYNC, unix.SYS_FTRUNCATE, unix.SYS_GETCWD,
		unix.SYS_GETDENTS64, unix.SYS_IOCTL, unix.SYS_LSEEK, unix.SYS_OPENAT, unix.SYS_OPENAT2,
		unix.SYS_PIPE2, unix.SYS_PREAD64, unix.SYS_PREADV, unix.SYS_PREADV2, unix.SYS_PWRITE64, unix.SYS_PWRITEV,
		unix.SYS_PWRITEV2, unix.SYS_READ, unix.SYS_READAHEAD, unix.SYS_READLINKAT, unix.SYS_READV, unix.SYS_SENDFILE,
		unix.SYS_SPLICE, unix.SYS_STATFS, unix.SYS_STATX, unix.SYS_SYNC_FILE_RANGE, unix.SYS_SYNCFS, unix.SYS_UMASK,
		unix.SYS_WRITE, unix.SYS_WRITEV,
		// On its sockets, which it was given.
		unix.SYS_ACCEPT4, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKNAME, unix.SYS_GETSOCKOPT, unix.SYS_RECVFROM,
		unix.SYS_RECVMMSG, unix.SYS_RECVMSG, unix.SYS_SENDMMSG, unix.SYS_SENDMSG, unix.SYS_SENDTO, unix.SYS_SETSOCKOPT,
		unix.SYS_SHUTDOWN, unix.SYS_SOCKETPAIR,
		unix.SYS_SOCKET, // a unix socket alone
	}
}

func memoryCalls() []uintptr {
	return []uintptr{
		unix.SYS_BRK, unix.SYS_GET_MEMPOLICY, unix.SYS_MADVISE, unix.SYS_MBIND, unix.SYS_MEMFD_CREATE, unix.SYS_MINCORE,
		unix.SYS_MLOCK, unix.SYS_MLOCK2, unix.SYS_MLOCKALL, unix.SYS_MMAP, unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_MSYNC,
		unix.SYS_MUNLOCK, unix.SYS_MUNLOCKALL, unix.SYS_MUNMAP, unix.SYS_PKEY_ALLOC, unix.SYS_PKEY_FREE, unix.SYS_PKEY_MPROTECT,
		unix.SYS_SET_MEMPOLICY,
	}
}

// threadCalls start threads, and end and schedule them; so do signals, by which
// vCPUs are stopped. The program is executed once, after the filter is there.
func threadCalls() []uintptr {
	return []uintptr{
		unix.SYS_CLONE, unix.SYS_EXECVE, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_FUTEX, unix.SYS_GET_ROBUST_LIST,
		unix.SYS_GETCPU, unix.SYS_GETEGID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETGROUPS, unix.SYS_GETPGID,
		unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETPRIORITY, unix.SYS_GETRANDOM, unix.SYS_GETRESGID, unix.SYS_GETRESUID,
		unix.SYS_GETRLIMIT, unix.SYS_GETRUSAGE, unix.SYS_GETSID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_KILL,
		unix.SYS_MEMBARRIER, unix.SYS_PRCTL, unix.SYS_PRLIMIT64, unix.SYS_RESTART_SYSCALL, unix.SYS_RSEQ,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPENDING, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGQUEUEINFO,
		unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGSUSPEND, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_RT_TGSIGQUEUEINFO,
		unix.SYS_SCHED_GET_PRIORITY_MAX, unix.SYS_SCHED_GET_PRIORITY_MIN, unix.SYS_SCHED_GETAFFINITY,
		unix.SYS_SCHED_GETATTR, unix.SYS_SCHED_GETPARAM, unix.SYS_SCHED_GETSCHEDULER, unix.SYS_SCHED_YIELD,
		unix.SYS_SECCOMP, unix.SYS_SET_ROBUST_LIST, unix.SYS_SET_TID_ADDRESS, unix.SYS_SETRLIMIT, unix.SYS_SIGALTSTACK,
		unix.SYS_SYSINFO, unix.SYS_TGKILL, unix.SYS_TKILL, unix.SYS_UNAME,
	}
}

func eventCalls() []uintptr {
	return []uintptr{
		unix.SYS_CLOCK_GETRES, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_EPOLL_CREATE1,
		unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2, unix.SYS_GETITIMER,
		unix.SYS_GETTIMEOFDAY, unix.SYS_IO_CANCEL, unix.SYS_IO_DESTROY, unix.SYS_IO_GETEVENTS, unix.SYS_IO_PGETEVENTS,
		unix.SYS_IO_SETUP, unix.SYS_IO_SUBMIT, unix.SYS_NANOSLEEP, unix.SYS_PPOLL, unix.SYS_PSELECT6, unix.SYS_SETITIMER,
		unix.SYS_SIGNALFD4, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_DELETE, unix.SYS_TIMER_GETOVERRUN,
		unix.SYS_TIMER_GETTIME, unix.SYS_TIMER_SETTIME, unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_GETTIME,
		unix.SYS_TIMERFD_SETTIME, unix.SYS_TIMES,
	}
}
