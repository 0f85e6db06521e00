package fileserver

import "golang.org/x/sys/unix"

// systemCalls are those of the server.
func systemCalls() []uintptr {
	calls := []uintptr{
		// Go's runtime, and the start of the program.
		unix.SYS_BRK, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLONE, unix.SYS_EXECVE, unix.SYS_EXIT,
		unix.SYS_EXIT_GROUP, unix.SYS_FUTEX, unix.SYS_GETPID, unix.SYS_GETRANDOM, unix.SYS_GETTID, unix.SYS_MADVISE,
		unix.SYS_MMAP, unix.SYS_MPROTECT, unix.SYS_MUNMAP, unix.SYS_MINCORE, unix.SYS_NANOSLEEP, unix.SYS_PRCTL,
		unix.SYS_PRLIMIT64, unix.SYS_RESTART_SYSCALL, unix.SYS_RSEQ, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK,
		unix.SYS_RT_SIGRETURN, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_YIELD, unix.SYS_SET_ROBUST_LIST,
		unix.SYS_SET_TID_ADDRESS, unix.SYS_SIGALTSTACK, unix.SYS_TGKILL, unix.SYS_UNAME,
		// Descriptors, the VMM's connection and its notifications.
		unix.SYS_CLOSE, unix.SYS_DUP3, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
		unix.SYS_FCNTL, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKNAME, unix.SYS_GETSOCKOPT, unix.SYS_PIPE2, unix.SYS_PPOLL,
		unix.SYS_READ, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_SENDTO, unix.SYS_SETSOCKOPT,
		unix.SYS_SHUTDOWN, unix.SYS_WRITE,
		// Files.
		unix.SYS_COPY_FILE_RANGE, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_FADVISE64, unix.SYS_FALLOCATE,
		unix.SYS_FCHDIR, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT,
		unix.SYS_FDATASYNC, unix.SYS_FGETXATTR, unix.SYS_FLISTXATTR, unix.SYS_FLOCK, unix.SYS_FREMOVEXATTR,
		unix.SYS_FSETXATTR, unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_FSYNC, unix.SYS_FTRUNCATE, unix.SYS_GETDENTS64,
		unix.SYS_GETXATTR, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_INOTIFY_INIT1, unix.SYS_INOTIFY_RM_WATCH, unix.SYS_IOCTL,
		unix.SYS_LGETXATTR, unix.SYS_LINKAT, unix.SYS_LISTXATTR, unix.SYS_LLISTXATTR, unix.SYS_LREMOVEXATTR,
		unix.SYS_LSEEK, unix.SYS_LSETXATTR, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_NAME_TO_HANDLE_AT,
		unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_PREAD64, unix.SYS_PREADV,
		unix.SYS_PREADV2, unix.SYS_PWRITE64, unix.SYS_PWRITEV, unix.SYS_PWRITEV2, unix.SYS_READLINKAT, unix.SYS_READV,
		unix.SYS_REMOVEXATTR, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_SETXATTR, unix.SYS_STATFS, unix.SYS_STATX,
		unix.SYS_SYMLINKAT, unix.SYS_SYNC_FILE_RANGE, unix.SYS_SYNCFS, unix.SYS_TRUNCATE, unix.SYS_UNLINKAT,
		unix.SYS_UTIMENSAT, unix.SYS_WRITEV,
		// The user that a file is to belong to.
		unix.SYS_CAPGET, unix.SYS_CAPSET, unix.SYS_CHDIR, unix.SYS_GETEGID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETUID,
		unix.SYS_SETFSGID, unix.SYS_SETFSUID, unix.SYS_SETGROUPS, unix.SYS_SETRESGID, unix.SYS_SETRESUID, unix.SYS_UMASK,
		unix.SYS_UNSHARE,
	}
	return append(calls, systemCallsHere()...)
}
