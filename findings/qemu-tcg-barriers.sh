#!/bin/bash
# QEMU's emulator leaves memory barriers out where the guest can have one CPU only.
#
# Tool:  qemu-system-x86_64 1:7.2+dfsg-7+deb12u18+b3 of Debian 12, accelerator TCG
# Seen:  the guest's mfence becomes a barrier on the host only if the machine may get
#        a second CPU (maxcpus) and each has a thread of its own. But a vhost-user back
#        end is another process that works on the same memory: without the guest's
#        barriers the two miss each other's notifications now and then. With
#        "-smp 1,maxcpus=2" they are there.
#
#        as described: barriers with -smp 1: 0
#        as described: barriers with -smp 1,maxcpus=2: 1
#        as described: barriers with -smp 1,maxcpus=2 and thread=single: 0
. "$(dirname "$0")/lib/common.sh"
debian qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1

# A firmware of 64 KiB which does mfence, hlt, and jumps back to hlt.
head -c 65520 /dev/zero >firmware
printf '\x0f\xae\xf0\xf4\xeb\xfd' >>firmware
truncate -s 65536 firmware

barriers() { # ACCELERATOR CPUS: how many operations "mb" the emulator makes of it
	timeout --foreground 3 qemu-system-x86_64 -machine q35 -accel "$1" -smp "$2" -m 32 -nodefaults -no-user-config \
		-display none -L "$scratch/root/usr/share/qemu" -L "$scratch/root/usr/share/seabios" \
		-bios firmware -d in_asm,op -D log 2>errors || true
	grep -q mfence log || { cat errors >&2; untried "the firmware did not run"; }
	grep -c '^ mb ' log || true
}

expect "barriers with -smp 1" 0 "$(barriers tcg 1)"
expect "barriers with -smp 1,maxcpus=2" 1 "$(barriers tcg 1,maxcpus=2)"
expect "barriers with -smp 1,maxcpus=2 and thread=single" 0 "$(barriers tcg,thread=single 1,maxcpus=2)"
