#!/bin/bash
# What a vsock sender may have under way is bounded by its own "receive" buffer.
#
# Tool:  Linux 6.1.192-3 of Debian 12 (linux-image-6.1.0-57-cloud-amd64), vsock_loopback
# Seen:  SO_VM_SOCKETS_BUFFER_SIZE is what a socket grants its peer: the credit, which the
#        peer's every packet carries. A receiver that grants 1 MiB and does not read gets
#        256 KiB, the sender's own default, and the sender then waits. It gets the
#        mebibyte once the sender has raised the size of a buffer that it receives
#        nothing into. So the window of a fast stream has to be set on both ends.
#
#        as described: KiB that a receiver with 1024 KiB gets by default: 256
#        as described: the same, from a sender with 1024 KiB: 1024
#        as described: a receiver with 256 KiB, a sender with 1024 KiB: 256
#
# The kernel runs in QEMU's emulator, so the host's is no matter.
. "$(dirname "$0")/lib/common.sh"
debian_alone "linux-image-$linux=6.1.192-3" busybox-static=1:1.35.0-4+deb12u1+b1

cat >main.go <<'END'
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for i := range 3 {
		module, err := os.Open(fmt.Sprintf("/modules/%d.ko", i))
		check(err)
		check(unix.FinitModule(int(module.Fd()), "", 0))
	}
	fmt.Println("RESULT receiver", underway(2000, 1<<20, 0))
	fmt.Println("RESULT both", underway(2001, 1<<20, 1<<20))
	fmt.Println("RESULT sender", underway(2002, 0, 1<<20))
}

// underway is how many KiB a sender gets rid of to a receiver that does not read, with
// these sizes of buffers; 0: the default.
func underway(port uint32, receiver, sender uint64) int {
	server := socket(receiver) // what it accepts inherits the size
	check(unix.Bind(server, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}))
	check(unix.Listen(server, 1))
	client := socket(sender)
	check(unix.Connect(client, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port}))
	accepted, _, err := unix.Accept(server)
	check(err)
	check(unix.SetNonblock(client, true))
	sent, data := 0, make([]byte, 4096)
	for idle := 0; idle < 20; { // what is not taken for two seconds is not taken
		n, err := unix.Write(client, data)
		if errors.Is(err, unix.EAGAIN) {
			idle++
			time.Sleep(100 * time.Millisecond)
			continue
		}
		check(err)
		sent, idle = sent+n, 0
	}
	check(unix.Close(client))
	check(unix.Close(accepted))
	check(unix.Close(server))
	return sent >> 10
}

func socket(size uint64) int {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	check(err)
	if size > 0 { // the largest first: it bounds the other
		check(unix.SetsockoptUint64(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, size))
		check(unix.SetsockoptUint64(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_SIZE, size))
	}
	return fd
}

func check(err error) {
	if err != nil {
		fmt.Println("FAILED", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}
END
build golang.org/x/sys@v0.36.0
guest_image net/vmw_vsock/vsock net/vmw_vsock/vmw_vsock_virtio_transport_common net/vmw_vsock/vsock_loopback
guest '' -m 256
result() { tr -d '\r' <console | grep "^RESULT $1 " | cut -d ' ' -f 3- || { tail -n 20 console >&2; untried "the guest failed"; }; }
expect "KiB that a receiver with 1024 KiB gets by default" 256 "$(result receiver)"
expect "the same, from a sender with 1024 KiB" 1024 "$(result both)"
expect "a receiver with 256 KiB, a sender with 1024 KiB" 256 "$(result sender)"
