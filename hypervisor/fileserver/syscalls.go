package fileserver

import (
	"slices"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/virtio/backend"
)

// systemCalls are those of the server: of any back end, and for files.
func systemCalls() []uintptr {
	calls := []uintptr{
		// Of the server itself: notifications, and the limit of its own files.
		unix.SYS_PPOLL, unix.SYS_PRLIMIT64,
		// Files.
		unix.SYS_COPY_FILE_RANGE, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_FADVISE64, unix.SYS_FALLOCATE,
		unix.SYS_FCHDIR, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT,
		unix.SYS_FDATASYNC, unix.SYS_FGETXATTR, unix.SYS_FLISTXATTR, unix.SYS_FLOCK, unix.SYS_FREMOVEXATTR,
		unix.SYS_FSETXATTR, unix.SYS_FSYNC, unix.SYS_FTRUNCATE, unix.SYS_GETDENTS64,
		unix.SYS_GETXATTR, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_INOTIFY_INIT1, unix.SYS_INOTIFY_RM_WATCH, unix.SYS_IOCTL,
		unix.SYS_LGETXATTR, unix.SYS_LINKAT, unix.SYS_LISTXATTR, unix.SYS_LLISTXATTR, unix.SYS_LREMOVEXATTR,
		unix.SYS_LSEEK, unix.SYS_LSETXATTR, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_NAME_TO_HANDLE_AT,
		unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_PREAD64, unix.SYS_PREADV,
		unix.SYS_PREADV2, unix.SYS_PWRITE64, unix.SYS_PWRITEV, unix.SYS_PWRITEV2, unix.SYS_READLINKAT,
		unix.SYS_REMOVEXATTR, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_SETXATTR, unix.SYS_STATFS, unix.SYS_STATX,
		unix.SYS_SYMLINKAT, unix.SYS_SYNC_FILE_RANGE, unix.SYS_SYNCFS, unix.SYS_TRUNCATE, unix.SYS_UNLINKAT,
		unix.SYS_UTIMENSAT,
		// The user that a file is to belong to.
		unix.SYS_CAPGET, unix.SYS_CAPSET, unix.SYS_CHDIR, unix.SYS_GETEGID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETUID,
		unix.SYS_SETFSGID, unix.SYS_SETFSUID, unix.SYS_SETGROUPS, unix.SYS_SETRESGID, unix.SYS_SETRESUID, unix.SYS_UMASK,
		unix.SYS_UNSHARE,
	}
	return slices.Concat(backend.SystemCalls(), calls, systemCallsHere())
}
