#!/bin/bash
# A file of /proc/self/mountinfo that Go opened does not tell of all changes.
#
# Tool: Go's os package (seen with go1.26.8), golang.org/x/sys v0.36.0, Linux (seen with 6.18)
# Seen: poll(2) on /proc/self/mountinfo answers POLLERR|POLLPRI once for each change of
#       the mounts since it last answered so: by what proc(5) says of it, one waits for
#       changes. os.Open registers every file that can be polled with the runtime's
#       epoll, which asks first: a change that comes while the runtime polls is taken
#       there, for nobody, and the program's own poll of the same descriptor waits on. A
#       descriptor of unix.Open is the program's alone, and misses none.
#
#       as described: mounted and asked 20 times, unix.Open: 20 changes seen
#       as described: the same, os.Open: fewer
. "$(dirname "$0")/lib/common.sh"
need_root
need unshare

cat >main.go <<'END'
package main

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	dir, err := os.MkdirTemp("", "")
	check(err)
	defer os.Remove(dir)
	const path = "/proc/self/mountinfo"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(err)
	fmt.Println(count(fd, dir))
	file, err := os.Open(path)
	check(err)
	fmt.Println(count(int(file.Fd()), dir) < 20)
	runtime.KeepAlive(file)
}

// count mounts twenty times, gives the runtime's poller a turn, and asks.
func count(fd int, dir string) (seen int) {
	changed(fd) // what was before
	for range 20 {
		check(unix.Mount("none", dir, "tmpfs", 0, ""))
		time.Sleep(20 * time.Millisecond)
		if changed(fd) {
			seen++
		}
		check(unix.Unmount(dir, 0))
		changed(fd)
	}
	return seen
}

func changed(fd int) bool {
	files := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	_, err := unix.Poll(files, 0)
	check(err)
	return files[0].Revents&unix.POLLPRI != 0
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build golang.org/x/sys@v0.36.0
unshare --mount --propagation private ./program >seen
expect "mounted and asked 20 times, unix.Open" "20" "$(sed -n 1p seen)"
expect "fewer with os.Open" "true" "$(sed -n 2p seen)"
