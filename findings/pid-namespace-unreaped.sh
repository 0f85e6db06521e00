#!/bin/bash
# A PID namespace's first process outlives SIGKILL for as long as somebody outside does not reap.
#
# Kernel:  Linux (seen with 6.18), golang.org/x/sys v0.36.0
# Seen:    A process outside that has entered a PID namespace starts one there, as exec of
#          a container runtime does. It ends, and its parent does not reap it. The namespace's
#          first process is killed: it has let go of its memory and files, but it does not end;
#          its pidfd says nothing, and whoever waits for it waits, until that other process,
#          which may be hung, reaps its own child.
#
#          as described: killed, with a zombie of an outside parent: ended within 3 s: false, program: none
#          as described: the zombie reaped: ended within 3 s: true, program: none
. "$(dirname "$0")/lib/common.sh"
need_root

cat >main.go <<'END'
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 2 {
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the input ends
		return
	}
	first, _ := start(syscall.CLONE_NEWPID)
	pidfd, err := unix.PidfdOpen(first.Process.Pid, 0)
	check(err)

	runtime.LockOSThread() // whose children are of the namespace
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", first.Process.Pid))
	check(err)
	check(unix.Setns(int(namespace.Fd()), unix.CLONE_NEWPID))
	other, input := start(0)
	otherFD, err := unix.PidfdOpen(other.Process.Pid, 0)
	check(err)
	check(input.Close())
	if !ended(otherFD, -1) {
		panic("the other one has not ended")
	}

	check(first.Process.Kill())
	fmt.Println("killed:", describe(first.Process.Pid, pidfd))
	check(other.Wait())
	fmt.Println("reaped:", describe(first.Process.Pid, pidfd))
	if err := first.Wait(); err == nil {
		panic("it has not been killed")
	}
}

// start starts a process that ends with its input.
func start(flags uintptr) (*exec.Cmd, interface{ Close() error }) {
	command := exec.Command("/proc/self/exe", "wait")
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	input, err := command.StdinPipe()
	check(err)
	check(command.Start())
	return command, input
}

func describe(pid, pidfd int) string {
	over := ended(pidfd, 3000)
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if errors.Is(err, os.ErrNotExist) {
		program = "none"
	}
	return fmt.Sprintf("ended within 3 s: %t, program: %s", over, strings.TrimSpace(program))
}

func ended(pidfd, milliseconds int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, milliseconds)
	check(err)
	return n == 1
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build golang.org/x/sys@v0.36.0
./program >seen
expect "killed, with a zombie of an outside parent" "ended within 3 s: false, program: none" "$(sed -n 's/^killed: //p' seen)"
expect "the zombie reaped" "ended within 3 s: true, program: none" "$(sed -n 's/^reaped: //p' seen)"
