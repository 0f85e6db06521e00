#!/bin/bash
# vsock ignores network namespaces.
#
# Tool:  Linux 6.1.192-3 of Debian 12 (linux-image-6.1.0-57-cloud-amd64), vsock_loopback
# Seen:  a server listens on a vsock port in one network namespace; a process in another
#        one, new and without any interface, reaches it by the loopback CID, and cannot
#        take the port for itself. So an agent in a virtual machine that listens on
#        vsock is reachable from each container there, whatever its network, if the
#        guest's kernel has vsock_loopback: the agent has to look at the peer's CID.
#
#        as described: TCP from another network namespace: network is unreachable
#        as described: vsock from another network namespace: connected
#        as described: CID of the client: 1
#        as described: the same vsock port in another network namespace: address already in use
#
# The kernel runs in QEMU's emulator, so the host's is no matter.
. "$(dirname "$0")/lib/common.sh"
debian_alone "linux-image-$linux=6.1.192-3" busybox-static=1:1.35.0-4+deb12u1+b1

cat >main.go <<'END'
package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const port = 1024

func main() {
	runtime.LockOSThread() // a network namespace is a thread's
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for i := range 3 {
		module, err := os.Open(fmt.Sprintf("/modules/%d.ko", i))
		check(err)
		check(unix.FinitModule(int(module.Fd()), "", 0))
	}
	inet := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	listen(unix.AF_INET, inet)
	server := listen(unix.AF_VSOCK, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})

	check(unix.Unshare(unix.CLONE_NEWNET))
	tell("tcp", unix.Connect(socket(unix.AF_INET), inet))
	tell("vsock", unix.Connect(socket(unix.AF_VSOCK), &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port}))
	_, peer, err := unix.Accept(server)
	check(err)
	fmt.Println("RESULT cid", peer.(*unix.SockaddrVM).CID)
	tell("bind", unix.Bind(socket(unix.AF_VSOCK), &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}))
}

func socket(family int) int {
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	check(err)
	return fd
}

func listen(family int, address unix.Sockaddr) int {
	fd := socket(family)
	check(unix.Bind(fd, address))
	check(unix.Listen(fd, 1))
	return fd
}

func tell(what string, err error) {
	if err == nil {
		fmt.Println("RESULT", what, "connected")
	} else {
		fmt.Println("RESULT", what, err)
	}
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
expect "TCP from another network namespace" "network is unreachable" "$(result tcp)"
expect "vsock from another network namespace" connected "$(result vsock)"
expect "CID of the client" 1 "$(result cid)"
expect "the same vsock port in another network namespace" "address already in use" "$(result bind)"
