//go:build !386

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func calls() []call {
	return []call{
		{"io_uring", ioUring},
		{"userfaultfd", func() error { return enter(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0) }},
		{"fanotify", fanotify},
		{"kcmp", kcmp},
		{"bpf", bpf},
		{"config.gz", holds("/proc/config.gz", "\x1f\x8b")},
		{"io of a process", holds("/proc/self/io", "read_bytes: ")},
		{"cpuset of a process", holds("/proc/self/cpuset", "/")},
		{"BBR", holds("/proc/sys/net/ipv4/tcp_available_congestion_control", "bbr")},
		{"landlock", landlock},
	}
}

// ioUring makes a queue of eight entries.
func ioUring() error {
	var parameters [120]byte // struct io_uring_params
	return enter(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&parameters)), 0)
}

// bpf loads a filter that takes no packet: r0 = 0, exit.
func bpf() error {
	const load, socketFilter = 5, 1 // BPF_PROG_LOAD, BPF_PROG_TYPE_SOCKET_FILTER
	code := [2]uint64{0xb7, 0x95}
	license := [4]byte{'G', 'P', 'L'}
	attributes := struct {
		kind, count   uint32
		code, license uint64
		more          [96]byte
	}{kind: socketFilter, count: uint32(len(code)), code: uint64(uintptr(unsafe.Pointer(&code))), license: uint64(uintptr(unsafe.Pointer(&license)))}
	return enter(unix.SYS_BPF, load, uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes))
}
