#!/bin/bash
# virtiofsd's cache=auto lets the guest forget a file's contents at each open.
#
# Tool:  virtiofsd of qemu-system-common 1:7.2+dfsg-7+deb12u18+b3 of Debian 12 (the one
#        in C), with Linux 6.1.192-3 in the guest
# Seen:  a guest opens a file of 8 MiB, reads it all and closes it, five times over, and
#        nobody changes it. With cache=auto the daemon reads 40 MiB for that, with
#        cache=always 8. Its manual page likens auto to NFS, which keeps the contents of a
#        file that has not changed. But the daemon lets the kernel keep what it has at an
#        open (FOPEN_KEEP_CACHE) with always alone, and without that FUSE drops the file's
#        pages when it is opened again, however fresh they are. So each start of a program
#        reads the program anew.
#
#        as described: cache=auto: the daemon has read 40 MiB
#        as described: cache=always: the daemon has read 8 MiB
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
	check(unix.Mount("share", "/mnt", "virtiofs", 0, ""))
	fmt.Println("MOUNTED")
	await("/mnt/go1")
	for range 5 {
		content, err := os.ReadFile("/mnt/file")
		check(err)
		if len(content) != 8<<20 {
			fmt.Println("FAILED: read", len(content))
		}
	}
	fmt.Println("READ")
	await("/mnt/go2")
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

mkdir share
head -c 8M /dev/zero >share/file
# Its pid file goes below /run of a mount namespace of its own.
cat >serve <<'END'
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var
exec "$scratch/root/usr/lib/qemu/virtiofsd" --socket-path="$scratch/socket" -o source="$scratch/share" -o "cache=$cache" -f --rlimit-nofile=0
END
export scratch cache

reached() { until_true 60 grep -qs "^$1" console || { tail -n 20 console log >&2; untried "the guest did not get to $1"; }; }
bytes() { # that the daemon, or the child that serves, has read with any call
	local pid n=0
	for pid in "$daemon" $(cat "/proc/$daemon/task/$daemon/children"); do
		n=$((n + $(awk '/^rchar/ {print $2}' "/proc/$pid/io")))
	done
	echo "$n"
}
for cache in auto always; do
	rm -f socket console share/go1 share/go2
	background unshare --mount bash serve >log 2>&1
	daemon=${started[-1]}
	until_true 20 test -S socket || { cat log >&2; untried "virtiofsd does not listen"; }
	background guest '' -L "$scratch/root/usr/share/qemu" -L "$scratch/root/usr/share/seabios" -m 256 \
		-object memory-backend-memfd,id=memory,size=256M,share=on -numa node,memdev=memory \
		-chardev "socket,id=share,path=$scratch/socket" -device vhost-user-fs-pci,chardev=share,tag=share
	reached MOUNTED
	before=$(bytes)
	touch share/go1
	reached READ
	# Requests and wake-ups are read, too: the rest of a MiB.
	read=$(((($(bytes) - before) + (1 << 19)) >> 20))
	touch share/go2
	wait "${started[-1]}" || true # the guest, before its daemon
	stop_all
	[ "$cache" = auto ] && wanted=40 || wanted=8
	expect "cache=$cache" "the daemon has read $wanted MiB" "the daemon has read $read MiB"
done
