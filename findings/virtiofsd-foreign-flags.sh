#!/bin/bash
# virtiofsd takes the flags of a guest's open for the host's, whatever the guest's architecture.
#
# Tool:  virtiofsd of qemu-system-common 1:7.2+dfsg-7+deb12u18+b3 of Debian 12 (the one
#        in C), with Linux 6.1.192-3 in the guest
# Seen:  FUSE hands flags of open(2) on as numbers, and some of them differ between
#        architectures. The bit of arm64's O_DIRECT is O_DIRECTORY on x86-64, which is a
#        part of O_TMPFILE there, and that of its O_LARGEFILE, which each of its opens has,
#        is O_NOFOLLOW. So what an arm64 guest opens plainly reaches the daemon with
#        O_NOFOLLOW, which it ignores. What is opened with O_DIRECT looks like the making of
#        a file, which is no business of FUSE's open: the daemon answers EINVAL and opens
#        nothing. open(2) has that error for a file system without direct I/O, which this
#        one is not: an x86-64 guest reads the same file of the same share with O_DIRECT.
#
#        as described: amd64 guest, plainly: 4096 bytes
#        as described: amd64 guest, O_DIRECT: 4096 bytes
#        as described: amd64 guest, flags of the opens that the daemon tries: 0100000 0140000
#        as described: arm64 guest, plainly: 4096 bytes
#        as described: arm64 guest, O_DIRECT: EINVAL
#        as described: arm64 guest, flags of the opens that the daemon tries: 0400000
. "$(dirname "$0")/lib/common.sh"
need_root
debian qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-arm=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1
debian_alone "linux-image-$linux=6.1.192-3" busybox-static=1:1.35.0-4+deb12u1+b1

# Packages for arm64 have lists of their own, and leave the host's as they are.
arm64=6.1.0-57-cloud-arm64
mkdir -p lists/partial
foreign=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root
	-o "Dir::State::Lists=$scratch/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
apt-get -qq "${foreign[@]}" update >log 2>&1 || true # the download tells
fetch "${foreign[@]}" "linux-image-$arm64=6.1.192-3" || { cat log >&2; untried "cannot download linux-image-$arm64"; }
unpack

cat >main.go <<'END'
package main

import (
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
	fmt.Println("PLAINLY", read(0))
	fmt.Println("DIRECT", read(unix.O_DIRECT))
	fmt.Println("DONE")
}

// read tells what comes of reading the file's first page.
func read(flags int) string {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	check(err)
	fd, err := unix.Open("/mnt/file", unix.O_RDONLY|flags, 0)
	if err != nil {
		return unix.ErrnoName(err.(unix.Errno))
	}
	n, err := unix.Read(fd, page)
	check(err)
	check(unix.Close(fd))
	return fmt.Sprint(n, " bytes")
}

func check(err error) {
	if err != nil {
		fmt.Println("FAILED", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}
END
modules=(drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev
	drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci fs/fuse/fuse fs/fuse/virtiofs)
build golang.org/x/sys@v0.36.0

mkdir share
head -c 8192 /dev/zero >share/file
# Its pid file goes below /run of a mount namespace of its own.
cat >serve <<'END'
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var
exec "$scratch/root/usr/lib/qemu/virtiofsd" --socket-path="$scratch/socket" -o source="$scratch/share" -f -d --rlimit-nofile=0
END
export scratch

guest_amd64() { # QEMU'S ARGUMENT...
	guest_image "${modules[@]}"
	guest '' -L "$scratch/root/usr/share/seabios" "$@"
}
guest_arm64() {
	GOARCH=arm64 go build -o program .
	linux=$arm64 guest_image "${modules[@]}"
	timeout --foreground 120 qemu-system-aarch64 -machine virt,gic-version=3,accel=tcg -cpu cortex-a57 -nodefaults \
		-no-user-config -display none -no-reboot -serial file:console -kernel "$scratch/root/boot/vmlinuz-$arm64" \
		-initrd initrd -append "console=ttyAMA0 quiet panic=-1" "$@"
}
reached() { until_true 90 grep -qs "^$1" console || { tail -n 20 console log >&2; untried "the guest did not get to $1"; }; }
said() { sed -n "s/^$1 //p" console | tr -d '\r'; }
for arch in amd64 arm64; do
	rm -f socket console
	background unshare --mount bash serve >log 2>&1
	until_true 20 test -S socket || { cat log >&2; untried "virtiofsd does not listen"; }
	background "guest_$arch" -machine memory-backend=memory -m 256 -L "$scratch/root/usr/share/qemu" \
		-object memory-backend-memfd,id=memory,size=256M,share=on \
		-chardev "socket,id=share,path=$scratch/socket" -device vhost-user-fs-pci,chardev=share,tag=share
	reached DONE
	wait "${started[-1]}" || true # the guest, before its daemon
	stop_all
	opened=$(sed -n 's/.* lo_open(.*flags=\([0-9]*\).*/\1/p' log | xargs printf '%#o ')
	if [ "$arch" = amd64 ]; then direct="4096 bytes" flags="0100000 0140000"; else direct=EINVAL flags=0400000; fi
	expect "$arch guest, plainly" "4096 bytes" "$(said PLAINLY)"
	expect "$arch guest, O_DIRECT" "$direct" "$(said DIRECT)"
	expect "$arch guest, flags of the opens that the daemon tries" "$flags" "${opened% }"
done
