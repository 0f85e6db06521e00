#!/bin/bash
# A directory that is bound twice below virtiofsd's is two in the guest, whose files have
# one number.
#
# Tool:  virtiofsd of qemu-system-common 1:7.2+dfsg-7+deb12u18+b3 of Debian 12 (the one
#        in C), Linux 6.1.192-3 in the guest
# Seen:  on the host a volume is bound to two places of the shared directory, as a runtime
#        does it for two containers of one VM. The daemon tells files apart by device,
#        inode and mount, so the guest gets two inodes for each, but with one and the same
#        device and inode number: programs take them for one file, and the kernel does
#        not. Both names are given an exclusive lock, and with cache=always what is
#        written to the one is not read from the other, where that is open already. Two
#        hard links in one mount, which show the same numbers, are one file.
#
#        as described: two hard links: same numbers true, second lock refused, sees new
#        as described: bound twice: same numbers true, second lock granted, sees old
. "$(dirname "$0")/lib/common.sh"
need_root
debian qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1
debian_alone "linux-image-$linux=6.1.192-3" busybox-static=1:1.35.0-4+deb12u1+b1

cat >main.go <<'END'
package main

import (
	"errors"
	"fmt"
	"os"

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
	compare("links", "/mnt/a/file", "/mnt/a/link")
	compare("bound", "/mnt/a/other", "/mnt/b/other")
}

func compare(what, first, second string) {
	one, oneStat := open(first)
	two, twoStat := open(second)
	read(two)
	check(unix.Flock(one, unix.LOCK_EX))
	lock := "granted"
	if err := unix.Flock(two, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		lock = "refused"
	}
	_, err := unix.Pwrite(one, []byte("new"), 0)
	check(err)
	fmt.Printf("RESULT %s same numbers %t, second lock %s, sees %s\n", what,
		oneStat.Dev == twoStat.Dev && oneStat.Ino == twoStat.Ino, lock, read(two))
}

func open(path string) (int, *unix.Stat_t) {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	check(err)
	var stat unix.Stat_t
	check(unix.Fstat(fd, &stat))
	return fd, &stat
}

func read(fd int) string {
	data := make([]byte, 3)
	_, err := unix.Pread(fd, data, 0)
	check(err)
	return string(data)
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

# The daemon's pid file goes below /run of a mount namespace of its own.
cat >serve <<'END'
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var
mkdir -p volume share/a share/b
printf old >volume/file
printf old >volume/other
ln volume/file volume/link
mount --bind volume share/a
mount --bind volume share/b
exec "$scratch/root/usr/lib/qemu/virtiofsd" --socket-path="$scratch/socket" -o source="$scratch/share" \
	-o cache=always -f --rlimit-nofile=0
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
expect "two hard links" "same numbers true, second lock refused, sees new" "$(result links)"
expect "bound twice" "same numbers true, second lock granted, sees old" "$(result bound)"
