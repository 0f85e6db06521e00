#!/bin/bash
# In a virtiofs submount each write asks for an extended attribute first.
#
# Tool:  virtiofsd of qemu-system-common 1:7.2+dfsg-7+deb12u18+b3 of Debian 12 (the one
#        in C) with announce_submounts, xattr and killpriv_v2, Linux 6.1.192-3 in the guest
# Seen:  before a write the kernel asks whether the file has security.capability, which
#        the write would have to take away. Where the daemon says that it does so itself
#        (killpriv_v2), the kernel remembers for each file that there is nothing to do,
#        after one GETXATTR. But it marks the superblock for that when the daemon answers
#        the mount's INIT, and the superblock that it makes for an announced submount has
#        no INIT of its own: the mark is lost, and each write to a file there is two
#        requests. So a volume below the shared directory is slower than the directory.
#
#        as described: requests for 100 writes beside the submount: 100 WRITE, 1 GETXATTR
#        as described: requests for 100 writes in the submount: 100 WRITE, 100 GETXATTR
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
	for i, path := range []string{"/mnt/file", "/mnt/sub/file"} {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		check(err)
		mark(i)
		for range 100 {
			_, err := file.Write([]byte("x"))
			check(err)
		}
	}
	mark(2)
	fmt.Println("WRITTEN")
}

// mark asks for a name, which the daemon notes, too.
func mark(i int) { _ = unix.Access(fmt.Sprintf("/mnt/mark%d", i), unix.F_OK) }

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
mkdir -p share
mount -t tmpfs tmpfs share
mkdir share/sub
mount -t tmpfs tmpfs share/sub
touch share/file share/sub/file
exec "$scratch/root/usr/lib/qemu/virtiofsd" --socket-path="$scratch/socket" -o source="$scratch/share" \
	-o announce_submounts,xattr,killpriv_v2 -d --rlimit-nofile=0
END
export scratch
background unshare --mount bash serve >log 2>&1
until_true 20 test -S socket || { cat log >&2; untried "virtiofsd does not listen"; }
guest '' -L "$scratch/root/usr/share/qemu" -L "$scratch/root/usr/share/seabios" -m 256 \
	-object memory-backend-memfd,id=memory,size=256M,share=on -numa node,memdev=memory \
	-chardev "socket,id=share,path=$scratch/socket" -device vhost-user-fs-pci,chardev=share,tag=share
grep -qs "^WRITTEN" console || { tail -n 20 console log >&2; untried "the guest failed"; }
requests() { # BETWEEN WHICH MARK and the next
	sed -n "/name=mark$1/,/name=mark$(($1 + 1))/p" log >part
	echo "$(grep -c 'opcode: WRITE ' part) WRITE, $(grep -c 'opcode: GETXATTR ' part) GETXATTR"
}
expect "requests for 100 writes beside the submount" "100 WRITE, 1 GETXATTR" "$(requests 0)"
expect "requests for 100 writes in the submount" "100 WRITE, 100 GETXATTR" "$(requests 1)"
