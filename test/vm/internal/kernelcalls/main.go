// Command kernelcalls makes, in a guest, system calls that a kernel may lack, and prints
// a line for each that does not do what it should. With the name of a program's file it
// confines itself by landlock, last.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	runtime.LockOSThread() // landlock's rules are a thread's
	failed := false
	for _, call := range calls() {
		if err := call.make(); err != nil {
			fmt.Printf("%s: %v\n", call.name, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
	fmt.Println(runtime.GOARCH + ": every call works")
}

type call struct {
	name string
	make func() error
}

// enter makes a system call that returns a descriptor, and closes that.
func enter(trap, a, b, c uintptr) error {
	fd, _, errno := unix.Syscall(trap, a, b, c)
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

func fanotify() error {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY)
	if err != nil {
		return err
	}
	err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, "/tmp")
	return errors.Join(err, unix.Close(fd))
}

func kcmp() error {
	const file = 0 // KCMP_FILE
	pid := uintptr(os.Getpid())
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, file, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if order != 0 {
		return fmt.Errorf("a file is not itself: %d", order)
	}
	return nil
}

// landlock forbids the thread to read files.
func landlock() error {
	handled := uint64(unix.LANDLOCK_ACCESS_FS_READ_FILE)
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&handled)), unsafe.Sizeof(handled), 0)
	if errno != 0 {
		return errno
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return errno
	}
	other, err := unix.Open("/etc/passwd", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("what is forbidden was opened: %d, %w", other, err)
	}
	return nil
}

// holds looks into a file of /proc.
func holds(path, text string) func() error {
	return func() error {
		data, err := os.ReadFile(path)
		if err == nil && !strings.Contains(string(data), text) {
			err = fmt.Errorf("%s holds %q", path, data)
		}
		return err
	}
}
