#!/bin/bash
# cgroup v1 tells of an OOM kill downwards, cgroup v2 upwards.
#
# Tool:  Linux 6.1.192-3 of Debian 12 (linux-image-6.1.0-57-cloud-amd64)
# Seen:  a group P has a child C. Version 1: if the limit of C is reached, an eventfd on
#        P's memory.oom_control stays silent; if that of P is reached, those of both
#        fire, although nothing was killed in C. Version 2: the kill in C counts in
#        memory.events of C and of P; a kill in P does not count in C. So who watches one
#        group hears of different things, and with version 1 of nothing in the groups
#        that a container makes inside its own.
#
#        as described: version 1, limit of the child reached: heard by child
#        as described: version 1, limit of the parent reached: heard by parent child
#        as described: version 2, limit of the child reached: heard by parent child
#        as described: version 2, limit of the parent reached: heard by parent
#
# The kernel runs in QEMU's emulator, so the host's is no matter.
. "$(dirname "$0")/lib/common.sh"
debian_alone "linux-image-$linux=6.1.192-3" busybox-static=1:1.35.0-4+deb12u1+b1

cat >main.go <<'END'
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 { // the process that takes too much memory
		write(os.Args[1]+"/cgroup.procs", "0")
		unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
		return
	}
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	check(unix.Mount("proc", "/proc", "proc", 0, ""))
	check(unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""))
	version := "2"
	if strings.Contains(read("/proc/cmdline"), "finding=1") {
		version = "1"
		check(unix.Mount("cgroup", "/mnt", "cgroup", 0, "memory"))
	} else {
		check(unix.Mount("cgroup2", "/mnt", "cgroup2", 0, ""))
		write("/mnt/cgroup.subtree_control", "+memory")
	}
	check(os.Mkdir("/mnt/p", 0o755))
	check(os.Mkdir("/mnt/p/c", 0o755))
	check(os.Mkdir("/mnt/p/other", 0o755))
	parent, child := listen(version, "/mnt/p"), listen(version, "/mnt/p/c")
	limit := map[string]string{"1": "/memory.limit_in_bytes", "2": "/memory.max"}[version]
	if version == "2" {
		write("/mnt/p/cgroup.subtree_control", "+memory")
	}
	for _, limited := range []struct{ name, group, victim string }{
		{"child", "/mnt/p/c", "/mnt/p/c"}, {"parent", "/mnt/p", "/mnt/p/other"},
	} {
		write(limited.group+limit, "16M")
		_ = exec.Command("/init", limited.victim).Run()
		write(limited.group+limit, map[string]string{"1": "-1", "2": "max"}[version])
		var heard []string
		if parent() {
			heard = append(heard, "parent")
		}
		if child() {
			heard = append(heard, "child")
		}
		fmt.Println("RESULT", version, limited.name, strings.Join(heard, " "))
	}
}

// listen returns a function that tells whether the group has heard of a kill since.
func listen(version, group string) func() bool {
	if version == "2" {
		before := ""
		return func() bool {
			for _, line := range strings.Split(read(group+"/memory.events"), "\n") {
				if strings.HasPrefix(line, "oom_kill ") {
					changed := line != before && line != "oom_kill 0"
					before = line
					return changed
				}
			}
			return false
		}
	}
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	check(err)
	control, err := os.Open(group + "/memory.oom_control")
	check(err)
	write(group+"/cgroup.event_control", fmt.Sprint(event, control.Fd()))
	return func() bool {
		buffer := make([]byte, 8)
		n, _ := unix.Read(event, buffer)
		return n == 8 && binary.NativeEndian.Uint64(buffer) > 0
	}
}

func read(path string) string {
	content, err := os.ReadFile(path)
	check(err)
	return string(content)
}

func write(path, value string) { check(os.WriteFile(path, []byte(value), 0o644)) }

func check(err error) {
	if err != nil {
		fmt.Println("FAILED", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}
END
build golang.org/x/sys@v0.36.0
guest_image
for version in 1 2; do
	guest "finding=$version" -m 256
	mv console "console.$version"
done
heard() {
	tr -d '\r' <"console.$1" | grep "^RESULT $1 $2 " | cut -d ' ' -f 4- || { tail -n 20 "console.$1" >&2; untried "the guest failed"; }
}
expect "version 1, limit of the child reached: heard by" child "$(heard 1 child)"
expect "version 1, limit of the parent reached: heard by" "parent child" "$(heard 1 parent)"
expect "version 2, limit of the child reached: heard by" "parent child" "$(heard 2 child)"
expect "version 2, limit of the parent reached: heard by" parent "$(heard 2 parent)"
