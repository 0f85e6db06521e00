#!/bin/bash
# virtiofsd holds a descriptor for each file that the guest has ever looked at.
#
# Tool:  virtiofsd of qemu-system-common 1:7.2+dfsg-7+deb12u18+b3 of Debian 12 (the one
#        in C), with Linux 6.1.192-3 in the guest
# Seen:  a guest that only stats 2000 files, and opens none, makes the daemon hold 2000
#        descriptors. They go when the guest's kernel forgets the inodes, which the host
#        cannot ask for. So the daemon's limit of open files is one of how many files a
#        guest may have in its caches, although nobody there has one open.
#
#        as described: descriptors after the guest has seen 2000 files: at least 2000 more
#        as described: descriptors after the guest has dropped its caches: fewer than 100 more
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
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for i := range 7 {
		module, err := os.Open(fmt.Sprintf("/modules/%d.ko", i))
		check(err)
		check(unix.FinitModule(int(module.Fd()), "", 0))
	}
	check(unix.Mount("proc", "/proc", "proc", 0, ""))
	check(unix.Mount("share", "/mnt", "virtiofs", 0, ""))
	fmt.Println("MOUNTED")
	await("/mnt/go1")
	for i := range 2000 {
		var stat unix.Stat_t
		check(unix.Stat(fmt.Sprintf("/mnt/files/%d", i), &stat))
	}
	fmt.Println("SEEN")
	await("/mnt/go2")
	check(os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
	fmt.Println("DROPPED")
	await("/mnt/go3")
}

// await waits for the host to make a file.
func await(path string) {
	for unix.Access(path, unix.F_OK) != nil {
		time.Sleep(200 * time.Millisecond)
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
guest_image drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev \
	drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci fs/fuse/fuse fs/fuse/virtiofs

mkdir -p share/files state
(cd share/files && seq 0 1999 | xargs touch)
# Its pid file goes below /run of a mount namespace of its own.
cat >serve <<'END'
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var
exec "$scratch/root/usr/lib/qemu/virtiofsd" --socket-path="$scratch/socket" -o source="$scratch/share" -o cache=auto -f --rlimit-nofile=0
END
export scratch
background unshare --mount bash serve >log 2>&1
daemon=${started[0]}
until_true 20 test -S socket || { cat log >&2; untried "virtiofsd does not listen"; }
background guest '' -L "$scratch/root/usr/share/qemu" -L "$scratch/root/usr/share/seabios" -m 256 \
	-object memory-backend-memfd,id=memory,size=256M,share=on -numa node,memdev=memory \
	-chardev "socket,id=share,path=$scratch/socket" -device vhost-user-fs-pci,chardev=share,tag=share

reached() { until_true 60 grep -qs "^$1" console || { tail -n 20 console log >&2; untried "the guest did not get to $1"; }; }
descriptors() { # of the daemon and of the child that serves
	local pid n=0
	for pid in "$daemon" $(cat "/proc/$daemon/task/$daemon/children"); do
		n=$((n + $(find "/proc/$pid/fd" -type l | wc -l)))
	done
	echo "$n"
}
reached MOUNTED
first=$(descriptors)
touch share/go1
reached SEEN
seen=$(($(descriptors) - first))
touch share/go2
reached DROPPED
few() { [ "$(($(descriptors) - first))" -lt 100 ]; }
until_true 10 few && dropped="fewer than 100 more" || dropped="$(($(descriptors) - first)) more"
[ "$seen" -ge 2000 ] && seen="at least 2000 more" || seen="$seen more"
touch share/go3
wait "${started[1]}" || true # the guest, before its daemon
expect "descriptors after the guest has seen 2000 files" "at least 2000 more" "$seen"
expect "descriptors after the guest has dropped its caches" "fewer than 100 more" "$dropped"
