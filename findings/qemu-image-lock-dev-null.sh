#!/bin/bash
# QEMU protects its images from other machines only where it can open /dev/null.
#
# Tool:  qemu-system-x86_64 1:7.2+dfsg-7+deb12u18+b3 of Debian 12
# Seen:  A second machine that opens an image for writing fails on the first one's lock
#        ("Failed to get \"write\" lock"). Whether there are locks of open files QEMU finds
#        out by one on /dev/null: with a /dev that lacks it, as in a minimal root file
#        system, the default locking=auto means no lock, and both machines write, without
#        a warning. locking=on locks there too, by the process's locks, and warns.
#
#        as described: the second machine, with /dev/null: Failed to get "write" lock
#        as described: the second machine, without /dev/null: runs
#        as described: a machine with locking=on, without /dev/null: warns
. "$(dirname "$0")/lib/common.sh"
need_root
debian qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1 ipxe-qemu=1.0.0+git-20190125.36a4c85-5.1
truncate -s 1M image
mkdir empty
export options="-machine q35,accel=tcg -S -m 32 -nodefaults -no-user-config -display none -qmp stdio
	-L $scratch/root/usr/share/qemu -L $scratch/root/usr/share/seabios -L $scratch/root/usr/lib/ipxe/qemu"

# machine opens the image and waits until its input ends. Its output says that it runs.
machine() { # LOCKING
	qemu-system-x86_64 $options -blockdev "driver=file,node-name=disk,filename=$scratch/image,locking=$1" \
		-device virtio-blk-pci,drive=disk 2>&1
}

# second tells what becomes of a second machine while a first one has the image.
second() {
	timeout --foreground 60 bash -c '
		set -e
		cd "$1"
		exec 3<>in
		machine auto <&3 >first &
		echo "{\"execute\": \"qmp_capabilities\"}" >&3
		until grep -q return first; do sleep 0.1; done
		echo "{\"execute\": \"qmp_capabilities\"} {\"execute\": \"quit\"}" | machine auto >second || true
		echo "{\"execute\": \"quit\"}" >&3
		wait
	' second "$@"
}

tell() {
	if grep -qi warning second; then head -c 300 second; elif grep -q return second; then echo runs; else grep -o 'Failed to get "write" lock' second; fi
}

mkfifo in
export -f machine
export scratch
second "$scratch"
expect "the second machine, with /dev/null" 'Failed to get "write" lock' "$(tell)"

# Programs of the shell's need /dev/null themselves: QEMU alone runs without it.
machine() {
	unshare --mount --propagation private bash -c '
		mount --bind "$1/empty" /dev
		exec qemu-system-x86_64 $options -blockdev "driver=file,node-name=disk,filename=$1/image,locking=$2" \
			-device virtio-blk-pci,drive=disk 2>&1
	' machine "$scratch" "$1"
}
export -f machine
second "$scratch"
expect "the second machine, without /dev/null" runs "$(tell)"
echo '{"execute": "qmp_capabilities"} {"execute": "quit"}' | machine on >third
if grep -q 'falling back to POSIX file locks' third; then warned=warns; else warned="$(head -c 300 third)"; fi
expect "a machine with locking=on, without /dev/null" warns "$warned"
