// Command kernelcalls makes each call that programs of common images use where
// the kernel has it, and prints those that fail. It needs every capability.
package main

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	failed := false
	tell := func(what string, err error) {
		if err != nil {
			fmt.Printf("%s: %v\n", what, err)
			failed = true
		}
	}
	var ring [120]byte // struct io_uring_params
	tell("io_uring_setup", open(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&ring)), 0))
	tell("userfaultfd", open(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0))
	tell("fanotify_init", open(unix.SYS_FANOTIFY_INIT, unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY, 0))
	rights := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE)
	tell("landlock_create_ruleset",
		open(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rights)), unsafe.Sizeof(rights), 0))
	pid := uintptr(unix.Getpid())
	const virtualMemory = 1 // KCMP_VM
	if _, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, virtualMemory, 0, 0, 0); errno != 0 {
		tell("kcmp", errno)
	}
	_, err := os.Stat("/proc/config.gz")
	tell("the kernel's configuration", err)
	for _, kind := range []string{"securityfs", "binfmt_misc"} {
		tell("mount "+kind, mount(kind))
	}
	// Whether a program without privileges may delay the kernel's own accesses: a
	// step of many an exploit.
	text, err := os.ReadFile("/proc/sys/vm/unprivileged_userfaultfd")
	if err == nil && string(text) != "0\n" {
		err = fmt.Errorf("is %q", text)
	}
	tell("vm.unprivileged_userfaultfd", err)
	if failed {
		os.Exit(1)
	}
}

// open makes a call that returns a descriptor.
func open(call, a, b, c uintptr) error {
	fd, _, errno := unix.Syscall(call, a, b, c)
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

func mount(kind string) (err error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
		return err
	}
	return unix.Unmount(dir, 0)
}
