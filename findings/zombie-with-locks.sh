#!/bin/bash
# A zombie may still run, and hold its locks.
#
# Kernel:  Linux (seen with 6.18), golang.org/x/sys v0.36.0
# Seen:    When the first thread of a process ends before the others, /proc/PID/stat has
#          the state Z and /proc/PID/fd is empty, as of a process that only waits to be
#          reaped. But the process runs on, and its lock (flock) keeps others out; its
#          descriptors are in /proc/PID/task/TID/fd of the other threads. A poll of its
#          pidfd says that it has not ended. So who takes the state for the end, and goes
#          on to lock or to unmount what the process had, may find it busy.
#
#          as described: while a thread lives: state Z, 0 descriptors in /proc/PID/fd, locked by it: true, ended by its pidfd: false
#          as described: afterwards: state Z, 0 descriptors in /proc/PID/fd, locked by it: false, ended by its pidfd: true
. "$(dirname "$0")/lib/common.sh"

cat >main.go <<'END'
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

func init() { runtime.LockOSThread() } // main is the process's first thread

func main() {
	if len(os.Args) == 2 {
		loseFirstThread(os.Args[1])
	}
	command := exec.Command("/proc/self/exe", "lock")
	input, err := command.StdinPipe()
	check(err)
	output, err := command.StdoutPipe()
	check(err)
	check(command.Start())
	pidfd, err := unix.PidfdOpen(command.Process.Pid, 0)
	check(err)
	_, err = output.Read(make([]byte, 1)) // it has the lock
	check(err)
	for state(command.Process.Pid) != "Z" {
	}
	fmt.Println("while a thread lives:", describe(command.Process.Pid, pidfd))
	check(input.Close())
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
	check(err)
	fmt.Println("afterwards:", describe(command.Process.Pid, pidfd))
	check(command.Wait())
}

// loseFirstThread takes a lock, and goes on without the calling thread until its input
// ends.
func loseFirstThread(path string) {
	file, err := os.Create(path)
	check(err)
	check(unix.Flock(int(file.Fd()), unix.LOCK_EX))
	go func() {
		fmt.Print("!")
		_, _ = os.Stdin.Read(make([]byte, 1))
		runtime.KeepAlive(file)
		os.Exit(0)
	}()
	_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
}

func describe(pid, pidfd int) string {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	check(err)
	file, err := os.Open("lock")
	check(err)
	defer file.Close()
	locked := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == unix.EWOULDBLOCK
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	check(err)
	return fmt.Sprintf("state %s, %d descriptors in /proc/PID/fd, locked by it: %t, ended by its pidfd: %t",
		state(pid), len(entries), locked, n == 1)
}

func state(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(err)
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[0]
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build golang.org/x/sys@v0.36.0
./program >seen
expect "while a thread lives" "state Z, 0 descriptors in /proc/PID/fd, locked by it: true, ended by its pidfd: false" \
	"$(sed -n 's/^while a thread lives: //p' seen)"
expect "afterwards" "state Z, 0 descriptors in /proc/PID/fd, locked by it: false, ended by its pidfd: true" \
	"$(sed -n 's/^afterwards: //p' seen)"
