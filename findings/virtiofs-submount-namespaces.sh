#!/bin/bash
# A virtiofs submount is another file system in each mount namespace of the guest.
#
# Tool:  virtiofsd of qemu-system-common 1:7.2+dfsg-7+deb12u18+b3 of Debian 12 (the one
#        in C) with announce_submounts, Linux 6.1.192-3 in the guest
# Seen:  the shared directory has a mount point below it, which the daemon announces, so
#        that inode numbers of two file systems do not clash. The guest's kernel mounts it
#        by itself when a path first crosses it, and only in the mount namespace of
#        whoever walks that path. A second namespace, which was there before, gets another
#        mount with a superblock and inodes of its own: two containers of one guest that
#        share the volume have different device numbers for one file, both get an
#        exclusive lock of it, and with cache=always the one, who has it open, goes on
#        reading what was there before the other has written. A file beside the mount
#        point is one file for both; and so is the submount's if it was crossed before
#        the namespaces parted.
#
#        as described: beside the submount: same device true, lock refused, sees new
#        as described: in the submount: same device false, lock granted, sees old
#        as described: in a submount crossed before: same device true, lock refused, sees new
. "$(dirname "$0")/lib/common.sh"
need_root
debian qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1
debian_alone "linux-image-$linux=6.1.192-3" busybox-static=1:1.35.0-4+deb12u1+b1

cat >main.go <<'END'
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

var paths = []string{"/mnt/file", "/mnt/sub/file", "/mnt/before/file"}

// The one container: the first process.
func main() {
	if len(os.Args) > 1 {
		other()
		return
	}
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for i := range 7 {
		module, err := os.Open(fmt.Sprintf("/modules/%d.ko", i))
		check(err)
		check(unix.FinitModule(int(module.Fd()), "", 0))
	}
	check(unix.Mount("share", "/mnt", "virtiofs", 0, ""))
	_, err := os.Stat(paths[2]) // before the namespaces part
	check(err)

	child := exec.Command("/init", "other")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	child.Stderr = os.Stdout
	in, err := child.StdinPipe()
	check(err)
	out, err := child.StdoutPipe()
	check(err)
	check(child.Start())
	answers := bufio.NewScanner(out)
	for _, path := range paths {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		check(err)
		check(unix.Flock(int(file.Fd()), unix.LOCK_EX))
		var stat unix.Stat_t
		check(unix.Fstat(int(file.Fd()), &stat))
		fmt.Fprintln(in, "look", stat.Dev)
		answers.Scan()
		locked := answers.Text()
		_, err = file.WriteAt([]byte("new"), 0)
		check(err)
		fmt.Fprintln(in, "read")
		answers.Scan()
		fmt.Printf("RESULT %s %s, sees %s\n", path, locked, answers.Text())
	}
}

// The other one, in a mount namespace of its own.
func other() {
	orders := bufio.NewScanner(os.Stdin)
	for _, path := range paths {
		orders.Scan()
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		check(err)
		var stat unix.Stat_t
		check(unix.Fstat(int(file.Fd()), &stat))
		lock := "granted"
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			lock = "refused"
		}
		content(file)
		fmt.Printf("same device %t, lock %s\n", strings.HasSuffix(orders.Text(), fmt.Sprint(" ", stat.Dev)), lock)
		orders.Scan()
		fmt.Println(content(file))
	}
}

func content(file *os.File) string {
	data := make([]byte, 3)
	_, err := file.ReadAt(data, 0)
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
mkdir -p share/sub share/before
mount -t tmpfs tmpfs share/sub
mount -t tmpfs tmpfs share/before
for directory in share share/sub share/before; do
	printf old >"$directory/file"
done
exec "$scratch/root/usr/lib/qemu/virtiofsd" --socket-path="$scratch/socket" -o source="$scratch/share" \
	-o announce_submounts -o cache=always -f --rlimit-nofile=0
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
expect "beside the submount" "same device true, lock refused, sees new" "$(result /mnt/file)"
expect "in the submount" "same device false, lock granted, sees old" "$(result /mnt/sub/file)"
expect "in a submount crossed before" "same device true, lock refused, sees new" "$(result /mnt/before/file)"
