package vsock

import (
	"errors"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/vsock/device"
)

// join copies between a connection of the guest and the Host's socket until both
// directions have ended, or one end is gone. It closes both.
func join(conn *device.Conn, socket *net.UnixConn) {
	var copying sync.WaitGroup
	copying.Go(func() { toGuest(conn, socket) })
	copying.Go(func() { fromGuest(socket, conn) })
	copying.Go(func() {
		<-conn.SendEnded()
		_ = socket.CloseRead() // writing to it fails
	})
	copying.Wait()
	_ = conn.Close()
	_ = socket.Close()
}

// fromGuest lets the socket's reader have what the guest sends.
func fromGuest(socket *net.UnixConn, conn *device.Conn) {
	err := conn.CopyTo(socket)
	switch {
	case err == nil:
		_ = socket.CloseWrite()
	case errors.Is(err, unix.EPIPE):
		// Nobody reads any more. Somebody may still write.
		_ = conn.CloseRead()
		_, _ = conn.WriteTo(io.Discard)
	default:
		// The guest's end is gone, which is the end of the other direction too.
		_ = socket.Close()
	}
}

// toGuest lets the guest have what the socket's writer sends.
func toGuest(conn *device.Conn, socket *net.UnixConn) {
	switch err := conn.ReadAllFrom(socket); {
	case err != nil:
		// The guest takes no more, or is gone, or the writer is. Where it is only the
		// first, the guest may still send. A writer that waits for room hears of the end
		// when it has some, and a reader would of a reset, were anything left unread.
		_ = socket.CloseRead()
		_, _ = io.Copy(io.Discard, socket)
	case !gone(socket, false):
		_ = conn.CloseWrite()
	}
	_ = gone(socket, true)
	_ = conn.Close()
}

// gone tells whether the socket's other end is closed altogether, or, by wait, waits
// until it is or this one is closed.
func gone(socket *net.UnixConn, wait bool) bool {
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	hung := false
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Ppoll(poll, &unix.Timespec{}, nil)
		hung = err == nil && n > 0 && poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		return hung || !wait
	})
	return hung || err != nil
}
