#!/bin/bash
# Room for a second CPU takes the TSC away from a guest of one, by the name of the CPU's
# maker.
#
# Tool:  Linux 6.1.192-3 of Debian 12 (linux-image-6.1.0-57-cloud-amd64), under
#        qemu-system-x86_64 1:7.2+dfsg-7+deb12u18+b3, accelerator TCG
# Seen:  the emulator does not tell its guest that the TSC runs at a constant rate. Then
#        Linux takes the TSCs of several CPUs for unsynchronised, unless the maker is
#        Intel, and counts the CPUs that may come, not those that are there. The model
#        "max" says AMD. So with maxcpus=2 the guest's one CPU has no clock in user space
#        any more: each clock_gettime is a system call, and an access to the emulated
#        HPET. With the other maker's name, or with tsc=reliable, it has the TSC.
#
#        as described: one CPU: tsc
#        as described: one CPU, room for another: hpet
#        as described: the same, maker GenuineIntel: tsc
#        as described: the same, tsc=reliable: tsc
. "$(dirname "$0")/lib/common.sh"
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
	if err := unix.Mount("sysfs", "/mnt", "sysfs", 0, ""); err != nil {
		fmt.Println("FAILED", err)
		return
	}
	time.Sleep(time.Second) // for the choice of a clock
	clock, err := os.ReadFile("/mnt/devices/system/clocksource/clocksource0/current_clocksource")
	if err != nil {
		fmt.Println("FAILED", err)
		return
	}
	fmt.Print("RESULT ", string(clock))
}
END
build golang.org/x/sys@v0.36.0
guest_image

# The watchdog of clocks, which a busy host may mislead, is off.
clock() { # CPUS, CPU, KERNEL'S ARGUMENT
	guest "tsc=nowatchdog $3" -L "$scratch/root/usr/share/qemu" -L "$scratch/root/usr/share/seabios" -m 256 -smp "$1" -cpu "$2"
	tr -d '\r' <console | grep '^RESULT ' | cut -d ' ' -f 2 | sed 's/-early//' | grep . || { tail -n 20 console >&2; untried "the guest failed"; }
}
expect "one CPU" tsc "$(clock 1 max '')"
expect "one CPU, room for another" hpet "$(clock 1,maxcpus=2 max '')"
expect "the same, maker GenuineIntel" tsc "$(clock 1,maxcpus=2 max,vendor=GenuineIntel '')"
expect "the same, tsc=reliable" tsc "$(clock 1,maxcpus=2 max tsc=reliable)"
