#!/bin/bash
# Of Go's calls that change a thread's credentials, some change all threads.
#
# Tool: golang.org/x/sys v0.36.0, package unix (with go1.26.8)
# Seen: on Linux, credentials are a thread's, and most functions of this package are the
#       bare system call. But Setresgid (as Setregid, Setresuid and Setreuid) hands the
#       call on to package syscall, which makes all threads of the process do it;
#       Setgroups and Capset of the same package change the calling thread. A goroutine
#       that locks its thread to act as another user for a moment makes the whole
#       process that user with the one, and only itself with the other.
#
#       as described: another thread's group after Setresgid: 12345
#       as described: another thread's number of groups after Setgroups: 0
#       as described: another thread's capabilities after Capset: still there
. "$(dirname "$0")/lib/common.sh"
need_root

cat >main.go <<'END'
package main

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

func main() {
	check(unix.Setgroups(nil)) // this thread's, before there are others of Go code
	groups := func() string {
		n, _, _ := unix.RawSyscall(unix.SYS_GETGROUPS, 0, 0, 0)
		return fmt.Sprint(n)
	}
	ask, answer := make(chan func() string), make(chan string)
	ready := make(chan bool)
	go func() { // a thread of its own
		runtime.LockOSThread()
		check(unix.Setgroups(nil))
		close(ready)
		for f := range ask {
			answer <- f()
		}
	}()
	<-ready
	other := func(f func() string) string {
		ask <- f
		return <-answer
	}
	runtime.LockOSThread()
	check(unix.Setgroups([]int{1, 2}))
	fmt.Println("groups", other(groups))
	var none [2]unix.CapUserData
	none[0].Permitted = 1 << unix.CAP_SETGID // what is needed below
	none[0].Effective = none[0].Permitted
	check(unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]))
	fmt.Println("capabilities", other(func() string {
		var has [2]unix.CapUserData
		check(unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &has[0]))
		if has[0].Permitted == none[0].Permitted {
			return "gone"
		}
		return "still there"
	}))
	check(unix.Setresgid(-1, 12345, -1))
	fmt.Println("group", other(func() string { return fmt.Sprint(unix.Getegid()) }))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build golang.org/x/sys@v0.36.0
./program >seen
result() { sed -n "s/^$1 //p" seen; }
expect "another thread's group after Setresgid" 12345 "$(result group)"
expect "another thread's number of groups after Setgroups" 0 "$(result groups)"
expect "another thread's capabilities after Capset" "still there" "$(result capabilities)"
