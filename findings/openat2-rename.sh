#!/bin/bash
# A lookup confined by openat2 fails now and then because of a rename somewhere else.
#
# Tool:  openat2(2) of Linux, seen with 6.18; golang.org/x/sys v0.36.0 to call it
# Seen:  with RESOLVE_IN_ROOT (and RESOLVE_BENEATH) a path with ".." in it gives EAGAIN
#        whenever anything was renamed meanwhile on the whole machine, in any file
#        system and by anybody: the kernel's counter is one for all. It is no sign of an
#        attack, and the caller has to try again. A path without ".." never gives it.
#
#        as described: EAGAIN with ".." while another file system has renames: some
#        as described: EAGAIN without "..": 0
. "$(dirname "$0")/lib/common.sh"
[ "$(stat --format %d /dev/shm)" != "$(stat --format %d .)" ] || untried "/dev/shm is no other file system"
other=$(mktemp -d /dev/shm/finding.XXXXXX)
trap 'rm -rf --one-file-system "$other" "$scratch"' EXIT

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
	runtime.GOMAXPROCS(max(2, runtime.NumCPU()))
	check(os.MkdirAll("root/a/b", 0o755))
	root, err := unix.Open("root", unix.O_PATH, 0)
	check(err)
	x, y := os.Args[1]+"/x", os.Args[1]+"/y"
	check(os.WriteFile(x, nil, 0o600))
	go func() {
		for {
			check(os.Rename(x, y))
			check(os.Rename(y, x))
		}
	}()
	fmt.Println(refused(root, "a/b/../b") > 0)
	fmt.Println(refused(root, "a/b"))
}

// refused counts the refusals of the same lookup in five seconds.
func refused(root int, path string) (n int) {
	how := unix.OpenHow{Flags: unix.O_PATH, Resolve: unix.RESOLVE_IN_ROOT}
	for begin := time.Now(); time.Since(begin) < 5*time.Second; {
		fd, err := unix.Openat2(root, path, &how)
		if err == unix.EAGAIN {
			n++
			continue
		}
		check(err)
		check(unix.Close(fd))
	}
	return n
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build golang.org/x/sys@v0.36.0
timeout --foreground 60 ./program "$other" >seen || untried "the program failed"
expect 'EAGAIN with ".." while another file system has renames' some "$(sed -n '1s/true/some/p' seen)"
expect 'EAGAIN without ".."' 0 "$(sed -n 2p seen)"
