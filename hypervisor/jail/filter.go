package jail

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SystemCalls are the system calls that a process may make.
type SystemCalls struct {
	// Allowed are the only ones; empty: all but those that nothing which a guest
	// talks to has a use for, see hostile. Those end the process, whatever is
	// allowed. Any other that is not allowed fails as one that the kernel does not
	// have (ENOSYS), for which the C library has another way or the program an
	// error. A socket can only be a unix socket: a network
	// namespace does not keep a process from those of other families, such as vsock,
	// by which it would reach the host's guests. Nor can it outlive its parent, or open a
	// file by its handle unless that is listed.
	Allowed []uintptr `json:"allowed,omitempty"`
	// Log lets the kernel log, with its number, each call that fails for the filter.
	// Whoever makes them decides how many lines that are. One that ended the process
	// is logged in any case.
	Log bool `json:"log,omitempty"`
}

// Offsets in the kernel's struct seccomp_data.
const (
	offsetNumber       = 0
	offsetArchitecture = 4
	offsetFirstLow     = 16 // of a little-endian machine
)

// namespaceFlags are those of clone(2) and unshare(2) that make namespaces.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// timeNamespace is unshare's alone: in clone's flags it is part of a signal.
const timeNamespace = unix.CLONE_NEWTIME

// hostile are the system calls that reach other processes, mounts, the kernel's
// own code and settings, or large rarely used parts of it. A process that makes
// one has been taken over.
func hostile() []uintptr {
	return append([]uintptr{
		unix.SYS_ACCT, unix.SYS_ADD_KEY, unix.SYS_ADJTIMEX, unix.SYS_BPF, unix.SYS_CLOCK_ADJTIME, unix.SYS_CLOCK_SETTIME,
		unix.SYS_DELETE_MODULE, unix.SYS_FANOTIFY_INIT, unix.SYS_FINIT_MODULE, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT,
		unix.SYS_FSOPEN, unix.SYS_FSPICK, unix.SYS_INIT_MODULE, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_KEXEC_LOAD, unix.SYS_KEYCTL,
		unix.SYS_LOOKUP_DCOOKIE, unix.SYS_MOUNT, unix.SYS_MOUNT_SETATTR, unix.SYS_MOVE_MOUNT, unix.SYS_NFSSERVCTL,
		unix.SYS_OPEN_TREE, unix.SYS_PERF_EVENT_OPEN, unix.SYS_PERSONALITY, unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_OPEN,
		unix.SYS_PIVOT_ROOT, unix.SYS_PROCESS_MADVISE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PTRACE,
		unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_REBOOT, unix.SYS_REQUEST_KEY, unix.SYS_SETDOMAINNAME,
		unix.SYS_SETHOSTNAME, unix.SYS_SETNS, unix.SYS_SETTIMEOFDAY, unix.SYS_SWAPOFF, unix.SYS_SWAPON, unix.SYS_SYSLOG,
		unix.SYS_UMOUNT2, unix.SYS_VHANGUP,
	}, hostileHere()...)
}

// program is the filter in the kernel's classic BPF.
func (s *SystemCalls) program() []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		above  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		anyBit = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret    = unix.BPF_RET | unix.BPF_K
		kill   = unix.SECCOMP_RET_KILL_PROCESS
		allow  = unix.SECCOMP_RET_ALLOW
		absent = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	// when ends with a verdict if the comparison holds.
	when := func(comparison uint16, k, verdict uint32) []unix.SockFilter {
		return []unix.SockFilter{{Code: comparison, Jf: 1, K: k}, {Code: ret, K: verdict}}
	}
	p := []unix.SockFilter{
		{Code: load, K: offsetArchitecture},
		{Code: equal, Jt: 1, K: architecture},
		{Code: ret, K: kill},
		{Code: load, K: offsetNumber},
	}
	if foreignNumbers > 0 {
		p = append(p, when(above, foreignNumbers, kill)...)
	}
	for _, number := range hostile() {
		p = append(p, when(equal, uint32(number), kill)...)
	}
	for _, number := range []uint32{
		unix.SYS_CLONE3,      // its flags are in memory, where no filter looks: the C library then takes clone
		unix.SYS_USERFAULTFD, // QEMU's vhost-user library asks whether it is there
		unix.SYS_IO_URING_SETUP,
	} {
		p = append(p, when(equal, number, absent)...)
	}
	// With CAP_DAC_READ_SEARCH, a handle that a process makes up opens any file of a
	// file system, whatever part of it is mounted: who needs that has to ask for it.
	if !slices.Contains(s.Allowed, unix.SYS_OPEN_BY_HANDLE_AT) {
		p = append(p, when(equal, unix.SYS_OPEN_BY_HANDLE_AT, unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))...)
	}
	for number, flags := range map[uint32]uint32{unix.SYS_CLONE: namespaceFlags, unix.SYS_UNSHARE: namespaceFlags | timeNamespace} {
		p = append(p, unix.SockFilter{Code: equal, Jf: 4, K: number}, unix.SockFilter{Code: load, K: offsetFirstLow})
		p = append(p, when(anyBit, flags, kill)...)
		p = append(p, unix.SockFilter{Code: load, K: offsetNumber})
	}
	p = append(p, unix.SockFilter{Code: equal, Jf: 4, K: unix.SYS_SOCKET}, unix.SockFilter{Code: load, K: offsetFirstLow},
		unix.SockFilter{Code: equal, Jt: 1, K: unix.AF_UNIX}, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		unix.SockFilter{Code: load, K: offsetNumber})
	// What ends it with its parent was set before the filter.
	p = append(p, unix.SockFilter{Code: equal, Jf: 4, K: unix.SYS_PRCTL}, unix.SockFilter{Code: load, K: offsetFirstLow},
		unix.SockFilter{Code: equal, Jf: 1, K: unix.PR_SET_PDEATHSIG}, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		unix.SockFilter{Code: load, K: offsetNumber})
	if len(s.Allowed) == 0 {
		return append(p, unix.SockFilter{Code: ret, K: allow})
	}
	for _, number := range s.Allowed {
		p = append(p, when(equal, uint32(number), allow)...)
	}
	return append(p, unix.SockFilter{Code: ret, K: absent})
}

// filterSystemCalls binds the calling thread, and what it executes, to a filter.
// no_new_privs must be set.
func filterSystemCalls(s *SystemCalls) error {
	if s == nil {
		return nil
	}
	code := s.program()
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	flags := uintptr(0)
	if s.Log {
		flags = unix.SECCOMP_FILTER_FLAG_LOG
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return fmt.Errorf("filter system calls: %w (it takes a kernel with CONFIG_SECCOMP_FILTER; %s)", errno, advice(PartSystemCalls))
	}
	return nil
}
