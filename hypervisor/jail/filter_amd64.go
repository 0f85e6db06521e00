package jail

import "golang.org/x/sys/unix"

const (
	architecture = unix.AUDIT_ARCH_X86_64
	// foreignNumbers is where those of the x32 ABI begin, which has calls of its
	// own for what a filter has forbidden.
	foreignNumbers = 0x40000000
)

// hostileHere are those that only this architecture has.
func hostileHere() []uintptr {
	return []uintptr{
		unix.SYS_CREATE_MODULE, unix.SYS_GET_KERNEL_SYMS, unix.SYS_IOPERM, unix.SYS_IOPL, unix.SYS_MODIFY_LDT,
		unix.SYS_QUERY_MODULE, unix.SYS_USELIB, unix.SYS_USTAT, unix.SYS__SYSCTL,
	}
}
