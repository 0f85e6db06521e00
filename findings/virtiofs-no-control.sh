#!/bin/bash
# A virtiofs mount is not among FUSE's connections, so the guest cannot give it up.
#
# Tool:  Linux 6.1.192-3 of Debian 12 (linux-image-6.1.0-57-cloud-amd64), with virtiofsd of
#        qemu-system-common 1:7.2+dfsg-7+deb12u18+b3
# Seen:  each FUSE mount has a directory in /sys/fs/fuse/connections: with the number of
#        requests that wait for the server, the limits of those in the background, and
#        "abort", which ends them all. It is what to look at, and what to do, when a server
#        does not answer. A virtiofs mount, the same file system in the same kernel, has
#        none. So neither can the guest see how many requests wait for the daemon, nor set
#        the limits, nor end what waits; that is left to the host.
#
#        as described: connections with a virtiofs mount: 0
#        as described: connections with a FUSE mount beside it: 1
#        as described: in the one: abort congestion_threshold max_background waiting
. "$(dirname "$0")/lib/common.sh"
need_root
debian qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1
debian_alone "linux-image-$linux=6.1.192-3" busybox-static=1:1.35.0-4+deb12u1+b1

cat >main.go <<'END'
package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for i := range 7 {
		module, err := os.Open(fmt.Sprintf("/modules/%d.ko", i))
		check(err)
		check(unix.FinitModule(int(module.Fd()), "", 0))
	}
	check(unix.Mount("share", "/mnt", "virtiofs", 0, ""))
	_, err := os.Stat("/mnt/file") // it works
	check(err)
	check(unix.Mount("fusectl", "/proc", "fusectl", 0, ""))
	fmt.Println("RESULT virtiofs", len(names("/proc")))

	check(unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""))
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	check(err)
	check(unix.Mount("other", "/modules", "fuse", 0,
		fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())))
	both := names("/proc")
	fmt.Println("RESULT both", len(both))
	for _, connection := range both {
		fmt.Println("RESULT files", strings.Join(names("/proc/"+connection), " "))
	}
}

// names are sorted.
func names(directory string) []string {
	entries, err := os.ReadDir(directory)
	check(err)
	var all []string
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

func check(err error) {
	if err != nil {
		fmt.Println("FAILED", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}
END
build golang.org/x/sys@v0.36.0
guest_image drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev \
	drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci fs/fuse/fuse fs/fuse/virtiofs

mkdir share
touch share/file
# The daemon's pid file goes below /run of a mount namespace of its own.
cat >serve <<'END'
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var
exec "$scratch/root/usr/lib/qemu/virtiofsd" --socket-path="$scratch/socket" -o source="$scratch/share" -f --rlimit-nofile=0
END
export scratch
background unshare --mount bash serve >log 2>&1
until_true 20 test -S socket || { cat log >&2; untried "virtiofsd does not listen"; }
guest '' -L "$scratch/root/usr/share/qemu" -L "$scratch/root/usr/share/seabios" -m 256 \
	-object memory-backend-memfd,id=memory,size=256M,share=on -numa node,memdev=memory \
	-chardev "socket,id=share,path=$scratch/socket" -device vhost-user-fs-pci,chardev=share,tag=share
result() {
	tr -d '\r' <console | grep "^RESULT $1 " | cut -d ' ' -f 3- || { tail -n 20 console log >&2; untried "the guest failed"; }
}
expect "connections with a virtiofs mount" 0 "$(result virtiofs)"
expect "connections with a FUSE mount beside it" 1 "$(result both)"
expect "in the one" "abort congestion_threshold max_background waiting" "$(result files)"
