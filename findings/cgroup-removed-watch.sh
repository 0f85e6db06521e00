#!/bin/bash
# An inotify watch on a control group is not told that the group was removed; a poll is.
#
# Tool:  Linux 6.1.192-3 of Debian 12 (linux-image-6.1.0-57-cloud-amd64), cgroup v2
# Seen:  files such as memory.events and cgroup.events can be watched with inotify, which
#        reports each change of their values, or polled. When the group is removed, the
#        watch on such a file gets neither IN_DELETE_SELF nor IN_IGNORED, as it would on
#        any other file system, and that on the group's directory neither: both stay, on
#        what is no more, for as long as the descriptor does. Only the parent's directory
#        reports the deletion. A poll that waits on the open file returns, and reading it
#        then fails. So who waits for an OOM kill with inotify waits for ever, unless
#        something else tells him of the container's end.
#
#        as described: watch on memory.events: no event of its removal
#        as described: watch on the group: no event of its removal
#        as described: watch on the parent: IN_DELETE
#        as described: watch on a file of a tmpfs: IN_DELETE_SELF IN_IGNORED
#        as described: poll of memory.events: woken, POLLPRI POLLERR
#        as described: reading it: no such device
#
# The kernel runs in QEMU's emulator, so the host's is no matter.
. "$(dirname "$0")/lib/common.sh"
debian_alone "linux-image-$linux=6.1.192-3" busybox-static=1:1.35.0-4+deb12u1+b1

cat >main.go <<'END'
package main

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	check(unix.Mount("cgroup2", "/mnt", "cgroup2", 0, ""))
	check(os.WriteFile("/mnt/cgroup.subtree_control", []byte("+memory"), 0o644))
	check(os.Mkdir("/mnt/group", 0o755))
	check(unix.Mount("tmpfs", "/proc", "tmpfs", 0, ""))
	check(os.WriteFile("/proc/file", nil, 0o644))

	file := watch("/mnt/group/memory.events")
	group := watch("/mnt/group")
	parent := watch("/mnt")
	other := watch("/proc/file")
	polled, err := unix.Open("/mnt/group/memory.events", unix.O_RDONLY, 0)
	check(err)
	content := make([]byte, 4096)
	_, err = unix.Read(polled, content) // the poll is for what comes after
	check(err)
	woken := make(chan string, 1)
	go func() { woken <- poll(polled) }()
	time.Sleep(time.Second) // it waits
	select {
	case <-woken:
		fmt.Println("FAILED: the poll did not wait")
	default:
	}

	check(os.Remove("/mnt/group"))
	check(os.Remove("/proc/file"))
	fmt.Println("RESULT poll", <-woken)
	_, err = unix.Pread(polled, content, 0)
	fmt.Println("RESULT read", err)
	time.Sleep(2 * time.Second) // for events that might come yet
	fmt.Println("RESULT file", file())
	fmt.Println("RESULT group", group())
	fmt.Println("RESULT parent", parent())
	fmt.Println("RESULT other", other())
}

// poll waits for ten seconds at most.
func poll(fd int) string {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	for {
		n, err := unix.Poll(fds, 10000)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err.Error()
		case n == 0:
			return "not woken"
		case fds[0].Revents == unix.POLLPRI|unix.POLLERR:
			return "woken, POLLPRI POLLERR"
		}
		return fmt.Sprintf("woken, %#x", fds[0].Revents)
	}
}

// watch returns a function that tells which events of a removal there have been since.
func watch(path string) func() string {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	check(err)
	_, err = unix.InotifyAddWatch(fd, path, unix.IN_ALL_EVENTS)
	check(err)
	return func() string {
		var names []string
		buffer := make([]byte, 4096)
		n, _ := unix.Read(fd, buffer)
		for n > 0 {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&buffer[0]))
			for mask, name := range map[uint32]string{
				unix.IN_DELETE: "IN_DELETE", unix.IN_DELETE_SELF: "IN_DELETE_SELF", unix.IN_IGNORED: "IN_IGNORED",
			} {
				if event.Mask&mask != 0 {
					names = append(names, name)
				}
			}
			size := unix.SizeofInotifyEvent + int(event.Len)
			buffer, n = buffer[size:], n-size
		}
		if names == nil {
			return "no event of its removal"
		}
		return strings.Join(names, " ")
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("FAILED", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}
END
build golang.org/x/sys@v0.36.0
guest_image
guest '' -m 256
result() { tr -d '\r' <console | grep "^RESULT $1 " | cut -d ' ' -f 3- || { tail -n 20 console >&2; untried "the guest failed"; }; }
grep -qs "^FAILED" console && untried "$(grep "^FAILED" console)"
expect "watch on memory.events" "no event of its removal" "$(result file)"
expect "watch on the group" "no event of its removal" "$(result group)"
expect "watch on the parent" IN_DELETE "$(result parent)"
expect "watch on a file of a tmpfs" "IN_DELETE_SELF IN_IGNORED" "$(result other)"
expect "poll of memory.events" "woken, POLLPRI POLLERR" "$(result poll)"
expect "reading it" "no such device" "$(result read)"
