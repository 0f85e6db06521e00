package jail

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Restrict takes from this process, with all its threads, and from those that it
// starts, for good, what nobody has a use for who looks after machines: capabilities
// and system calls that change the host itself or look into other processes. It sets
// no_new_privs. without names Parts that this host forbids: of them, the filter of
// system calls can be left out. The program must have been built without cgo.
func Restrict(without []string) error {
	// The filter is installed by this thread for all.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := giveUp(needless())
	if errors.Is(err, unix.ENOTSUP) { // what AllThreadsSyscall says where there is cgo
		return errors.New("give up capabilities: this program was built with cgo, which keeps Go from telling all threads: build it with CGO_ENABLED=0, as make build does")
	}
	if err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	if slices.Contains(without, PartSystemCalls) {
		return nil
	}
	code := denyProgram(forbidden())
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	thread, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return fmt.Errorf("filter system calls (needs a kernel with CONFIG_SECCOMP_FILTER; %s): %w", advice(PartSystemCalls), errno)
	}
	if thread != 0 {
		return fmt.Errorf("filter system calls: thread %d has a filter of its own: %w", thread, unix.ESRCH)
	}
	return nil
}

// needless are the capabilities of a root that no part of a machine's life takes. With
// CAP_DAC_READ_SEARCH, a handle that a process makes up opens any file of a file system of
// which it can see a part; to read and search, CAP_DAC_OVERRIDE is enough.
func needless() []uintptr {
	return []uintptr{
		unix.CAP_AUDIT_CONTROL, unix.CAP_AUDIT_READ, unix.CAP_AUDIT_WRITE, unix.CAP_BLOCK_SUSPEND, unix.CAP_BPF,
		unix.CAP_CHECKPOINT_RESTORE, unix.CAP_DAC_READ_SEARCH, unix.CAP_IPC_OWNER, unix.CAP_LEASE, unix.CAP_LINUX_IMMUTABLE, unix.CAP_MAC_ADMIN,
		unix.CAP_MAC_OVERRIDE, unix.CAP_NET_BROADCAST, unix.CAP_PERFMON, unix.CAP_SYS_BOOT, unix.CAP_SYS_MODULE,
		unix.CAP_SYS_PACCT, unix.CAP_SYS_RAWIO, unix.CAP_SYS_TIME, unix.CAP_SYS_TTY_CONFIG, unix.CAP_SYSLOG,
		unix.CAP_WAKE_ALARM,
	}
}

// forbidden are the system calls that change the host itself, its kernel's code or
// its clocks, or that reach into other processes. None of the processes that a
// supervisor starts makes one, the jail's step included.
func forbidden() []uintptr {
	return append([]uintptr{
		unix.SYS_ACCT, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME, unix.SYS_CLOCK_SETTIME, unix.SYS_DELETE_MODULE,
		unix.SYS_FINIT_MODULE, unix.SYS_INIT_MODULE, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_KEXEC_LOAD, unix.SYS_LOOKUP_DCOOKIE,
		unix.SYS_NFSSERVCTL, unix.SYS_PERF_EVENT_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PROCESS_MADVISE,
		unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PTRACE, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
		unix.SYS_REBOOT, unix.SYS_SETTIMEOFDAY, unix.SYS_SWAPOFF, unix.SYS_SWAPON, unix.SYS_SYSLOG, unix.SYS_VHANGUP,
	}, hostileHere()...)
}

// denyProgram is a filter that ends a process which makes one of the calls.
func denyProgram(denied []uintptr) []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		above = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
		kill  = unix.SECCOMP_RET_KILL_PROCESS
	)
	p := []unix.SockFilter{
		{Code: load, K: offsetArchitecture},
		{Code: equal, Jt: 1, K: architecture},
		{Code: ret, K: kill},
		{Code: load, K: offsetNumber},
	}
	if foreignNumbers > 0 {
		p = append(p, unix.SockFilter{Code: above, Jf: 1, K: foreignNumbers}, unix.SockFilter{Code: ret, K: kill})
	}
	for _, number := range denied {
		p = append(p, unix.SockFilter{Code: equal, Jf: 1, K: uint32(number)}, unix.SockFilter{Code: ret, K: kill})
	}
	return append(p, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
}

// giveUp takes capabilities from all sets of all threads.
func giveUp(capabilities []uintptr) error {
	for _, capability := range capabilities {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
		if err != nil || has == 0 {
			continue // the kernel does not know it, or it is gone
		}
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0); errno != 0 {
			return fmt.Errorf("%d: %w", capability, errno)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read them: %w", err)
	}
	for i := range sets {
		var mask uint32
		for capability := range uintptr(32) {
			if slices.Contains(capabilities, uintptr(32*i)+capability) {
				mask |= 1 << capability
			}
		}
		sets[i].Permitted &^= mask
		sets[i].Effective &^= mask
		sets[i].Inheritable &^= mask
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0)
	runtime.KeepAlive(&sets)
	if errno != 0 {
		return fmt.Errorf("set what is left: %w", errno)
	}
	return nil
}
