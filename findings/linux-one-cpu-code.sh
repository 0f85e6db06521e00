#!/bin/bash
# A guest of one CPU rewrites its kernel's code as it boots, thousands of times with a
# change of address space each.
#
# Tool:  Linux 6.1.192-3 of Debian 12 (linux-image-6.1.0-57-cloud-amd64), under
#        qemu-system-x86_64 1:7.2+dfsg-7+deb12u18+b3, accelerator TCG
# Seen:  a kernel with SMP that finds one CPU present takes the LOCK prefix away from
#        every instruction of its text that has one ("SMP alternatives"), by text_poke:
#        one byte at a time, and for each an address space of its own is loaded, the byte
#        written, and the old one loaded again. That is little on a CPU that tags its TLB.
#        The emulator flushes its own each time: of the flushes of a whole boot, up to the
#        panic for want of a root file system, more than nine of ten are these. They are
#        there, too, where more CPUs may be plugged in later (maxcpus), and gone with
#        noreplace-smp, or with two CPUs from the start.
#
#        as described: TLB flushes, one CPU: more than 20000
#        as described: TLB flushes, one CPU, room for another: more than 20000
#        as described: TLB flushes, one CPU and noreplace-smp: fewer than 2500
#        as described: TLB flushes, two CPUs: fewer than 2500
. "$(dirname "$0")/lib/common.sh"
debian qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1
debian_alone "linux-image-$linux=6.1.192-3"

panicked() { grep -qs "Kernel panic - not syncing: VFS" console; }

flushes() { # CPUS KERNEL'S ARGUMENT: how many the emulator has counted at the panic
	local n
	rm -f console
	{
		until_true 60 panicked || true
		echo "info jit"
		sleep 1
		echo quit
	} | timeout --foreground 90 qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp "$1" -m 256 -nodefaults \
		-no-user-config -display none -L "$scratch/root/usr/share/qemu" -L "$scratch/root/usr/share/seabios" \
		-serial file:console -monitor stdio -kernel "$scratch/root/boot/vmlinuz-$linux" \
		-append "console=ttyS0 panic=0 $2" >replies 2>&1 || true
	panicked || { tail -n 5 console replies >&2; untried "the guest did not boot"; }
	n=$(tr -d '\r' <replies | awk '/^TLB (full|partial) flushes/ {n += $4} END {print n}')
	if [ "$n" -gt 20000 ]; then
		echo "more than 20000"
	elif [ "$n" -lt 2500 ]; then
		echo "fewer than 2500"
	else
		echo "$n"
	fi
}
many="more than 20000" few="fewer than 2500"
expect "TLB flushes, one CPU" "$many" "$(flushes 1 '')"
expect "TLB flushes, one CPU, room for another" "$many" "$(flushes 1,maxcpus=2 '')"
expect "TLB flushes, one CPU and noreplace-smp" "$few" "$(flushes 1 noreplace-smp)"
expect "TLB flushes, two CPUs" "$few" "$(flushes 2 '')"
