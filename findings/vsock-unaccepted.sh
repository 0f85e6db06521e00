#!/bin/bash
# A vsock connection that nobody has accepted ends like one that was served.
#
# Tool:  Linux 6.1.192-3 of Debian 12 (linux-image-6.1.0-57-cloud-amd64), vsock_loopback
# Seen:  a client connects and sends a request while the server has not accepted yet;
#        then the server closes its listening socket, or ends. The client's read gives the
#        end of the stream, as if its peer had read the request and closed; a unix socket
#        says "connection reset by peer", for what was sent has been lost. That error
#        stands for something else here: connect gives it where nobody listens, and where
#        the queue of a server that does listen is full. It does not wait for room then,
#        as connect does with other sockets, so a short backlog turns away clients that
#        come together, and they cannot tell that they should try again.
#
#        as described: read, the listener closed before an accept, vsock: end of the stream
#        as described: the same, unix: connection reset by peer
#        as described: connect, nobody listens, vsock: connection reset by peer
#        as described: the same, unix: connection refused
#        as described: connect, backlog of 1, 2 are waiting, vsock: connection reset by peer
#        as described: the same, unix: waits
#
# The kernel runs in QEMU's emulator, so the host's is no matter.
. "$(dirname "$0")/lib/common.sh"
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
	for i := range 3 {
		module, err := os.Open(fmt.Sprintf("/modules/%d.ko", i))
		check(err)
		check(unix.FinitModule(int(module.Fd()), "", 0))
	}
	try("vsock", unix.AF_VSOCK, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: 2000})
	try("unix", unix.AF_UNIX, &unix.SockaddrUnix{Name: "@name"})
}

func try(family string, domain int, address unix.Sockaddr) {
	fmt.Println("RESULT", family, "none", text(unix.Connect(socket(domain), address)))

	listener := socket(domain)
	check(unix.Bind(listener, address))
	check(unix.Listen(listener, 1))
	var clients []int
	for range 2 {
		client := socket(domain)
		check(unix.Connect(client, address))
		_, err := unix.Write(client, []byte("request"))
		check(err)
		clients = append(clients, client)
	}
	third := make(chan error, 1)
	go func() { third <- unix.Connect(socket(domain), address) }()
	select {
	case err := <-third:
		fmt.Println("RESULT", family, "full", text(err))
	case <-time.After(time.Second):
		fmt.Println("RESULT", family, "full waits")
	}
	check(unix.Close(listener))
	n, err := unix.Read(clients[0], make([]byte, 1))
	if n == 0 && err == nil {
		fmt.Println("RESULT", family, "closed end of the stream")
	} else {
		fmt.Println("RESULT", family, "closed", text(err))
	}
}

func socket(domain int) int {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM, 0)
	check(err)
	return fd
}

func text(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
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
result() { tr -d '\r' <console | grep "^RESULT $1 " | cut -d ' ' -f 4- || { tail -n 20 console >&2; untried "the guest failed"; }; }
reset="connection reset by peer"
expect "read, the listener closed before an accept, vsock" "end of the stream" "$(result "vsock closed")"
expect "the same, unix" "$reset" "$(result "unix closed")"
expect "connect, nobody listens, vsock" "$reset" "$(result "vsock none")"
expect "the same, unix" "connection refused" "$(result "unix none")"
expect "connect, backlog of 1, 2 are waiting, vsock" "$reset" "$(result "vsock full")"
expect "the same, unix" waits "$(result "unix full")"
