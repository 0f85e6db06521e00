#!/bin/bash
# QEMU's emulator goes on with code that the guest has changed, where the guest has two
# CPUs.
#
# Tool:  qemu-system-x86_64 1:7.2+dfsg-7+deb12u18+b3 of Debian 12, accelerator TCG, whose
#        CPUs have a thread each; Linux 6.1.192-3 as its guest
# Seen:  Linux changes its own code while it runs ("static keys"): a place gets a
#        breakpoint first, then its new instruction. When one CPU translates the
#        breakpoint while the other one writes the instruction, the emulator keeps the
#        translation. From then on each CPU that comes there is in the breakpoint's
#        handler, which finds no breakpoint in memory and tries again, for ever. The
#        scheduler has such a place for KVM, changed when the first VM is made and when
#        the last one goes: a guest that makes VMs and switches between processes stands
#        still after some hundred of them. Once it is made to translate all anew (here:
#        one instruction at a time), it goes on. With one CPU it does not happen.
#        Newer versions' source (tb_lock_page0) locks a page before it translates it;
#        they were not tried.
#
#        as described: two CPUs: the guest stands still
#        as described: two CPUs, all translated anew: the guest goes on
#        as described: one CPU: the guest has made 300 VMs
. "$(dirname "$0")/lib/common.sh"
need mkfifo
debian_alone qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1 \
	linux-image-6.1.0-57-cloud-amd64=6.1.192-3 busybox-static=1:1.35.0-4+deb12u1+b1

cat >main.go <<'END'
// The only process of a guest: makes VMs and lets them go, while pairs of threads wake
// each other.
package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const createVM = 0xae01

func must(what string, err error) {
	if err != nil {
		fmt.Println(what, err)
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

func pair() {
	var one, two [2]int
	must("pipe", unix.Pipe(one[:]))
	must("pipe", unix.Pipe(two[:]))
	pass := func(from, to int) {
		runtime.LockOSThread()
		token := make([]byte, 1)
		for {
			_, _ = unix.Read(from, token)
			_, _ = unix.Write(to, token)
		}
	}
	go pass(one[0], two[1])
	go pass(two[0], one[1])
	_, _ = unix.Write(one[1], []byte{0})
}

func main() {
	must("mount", unix.Mount("dev", "/dev", "devtmpfs", 0, ""))
	if console, err := os.OpenFile("/dev/ttyS0", os.O_WRONLY, 0); err == nil {
		os.Stdout = console
	}
	for i := range 3 {
		module, err := os.Open(fmt.Sprintf("/modules/%d.ko", i))
		must("open a module", err)
		must("load a module", unix.FinitModule(int(module.Fd()), "", 0))
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	must("open /dev/kvm", err)
	for range 3 {
		pair()
	}
	for i := 1; ; i++ {
		vm, _, errno := unix.Syscall(unix.SYS_IOCTL, kvm.Fd(), createVM, 0)
		if errno != 0 {
			must("make a VM", errno)
		}
		must("let it go", unix.Close(int(vm)))
		if i%10 == 0 {
			fmt.Println("made", i)
		}
	}
}
END
build golang.org/x/sys@v0.36.0
guest_image virt/lib/irqbypass arch/x86/kvm/kvm arch/x86/kvm/kvm-amd

made() { tail -n 1 console 2>/dev/null | sed -n 's/^made \([0-9]*\).*/\1/p'; }

# The monitor's commands come through a FIFO.
run() { # CPUS
	rm -f console
	timeout --foreground 190 qemu-system-x86_64 -accel tcg -cpu max -smp "$1" -m 512 -nodefaults -no-user-config \
		-display none -no-reboot -serial file:console -kernel "$scratch/root/boot/vmlinuz-$linux" -initrd initrd \
		-append "console=ttyS0 quiet panic=-1 mitigations=off" -L "$scratch/root/usr/share/qemu" \
		-L "$scratch/root/usr/share/seabios" -monitor stdio <monitor >replies 2>&1
}
mkfifo monitor
exec 3<>monitor

# stands waits until the guest stands still.
stands() {
	local before=none now same=0
	for _ in $(seq 140); do
		sleep 1
		now=$(made)
		if [ -n "$now" ] && [ "$now" = "$before" ]; then same=$((same + 1)); else same=0; fi
		[ "$same" -lt 20 ] || return 0
		before=$now
	done
	return 1
}
further() { [ "$(made)" != "$stopped" ]; }
many() { [ "$(made)" -ge 300 ] 2>/dev/null; }

say() { # WHEN SO, WHEN NOT, COMMAND...
	local so=$1 not=$2
	shift 2
	if "$@"; then echo "$so"; else echo "$not"; fi
}

still="the guest stands still" on="the guest goes on"
background run 2
expect "two CPUs" "$still" "$(say "$still" "$on" stands)"
stopped=$(made)
echo "singlestep on" >&3
expect "two CPUs, all translated anew" "$on" "$(say "$on" "$still" until_true 40 further)"
stop_all
background run 1
expect "one CPU" "the guest has made 300 VMs" "$(say "the guest has made 300 VMs" "the guest has not" until_true 80 many)"
