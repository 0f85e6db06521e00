package sockets

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/osthread"
)

// dialTimeout bounds how long a server may leave its queue of connections full.
const dialTimeout = 3 * time.Second

// socketAddress is the address of a socket that is open with O_PATH, whatever
// its path is by now.
func socketAddress(socket *os.File) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", socket.Fd())}
}

// dial connects to a socket that is open with O_PATH. The server sees the
// client's user and group (SO_PEERCRED), and this process's pid: a server that
// trusts some users must not take every container's for root.
func dial(socket *os.File, uid, gid uint32) (*net.UnixConn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "relayed socket")
	defer file.Close() // FileConn duplicates
	timeout := unix.NsecToTimeval(dialTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		return nil, fmt.Errorf("bound the connecting: %w", err)
	}
	err = as(uid, gid, func() error { return retry(func() error { return unix.Connect(fd, socketAddress(socket)) }) })
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conn, err := net.FileConn(file) // makes it non-blocking
	if err != nil {
		return nil, fmt.Errorf("use the connection: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("use the connection: it is a %T", conn)
	}
	return unixConn, nil
}

// retry calls f until no signal interrupts it, as the Go runtime's do.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// as calls f on a thread with the effective user and group of a client, with
// this process's capabilities all the same: whether the client may connect the
// guest's kernel has decided, by a socket of the same mode and owner.
func as(uid, gid uint32, f func() error) error {
	if int(uid) == os.Geteuid() && int(gid) == os.Getegid() {
		return f()
	}
	return osthread.Run(func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var capabilities [2]unix.CapUserData
		if err := unix.Capget(&header, &capabilities[0]); err != nil {
			return fmt.Errorf("read this thread's capabilities: %w", err)
		}
		const unchanged = ^uintptr(0)
		// The raw calls change this thread alone, which ends afterwards.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			return fmt.Errorf("take the client's groups: %w", errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, unchanged, uintptr(gid), unchanged); errno != 0 {
			return fmt.Errorf("take the client's group %d: %w", gid, errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, uintptr(uid), unchanged); errno != 0 {
			return fmt.Errorf("take the client's user %d: %w", uid, errno)
		}
		if err := unix.Capset(&header, &capabilities[0]); err != nil {
			return fmt.Errorf("keep this thread's capabilities: %w", err)
		}
		return f()
	})
}

// hosted tells whether a stream socket of this host's kernel is bound to a
// socket's inode, without disturbing its server: connecting to it with a socket
// of another type fails for that reason before anything else.
func hosted(socket *os.File) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return errors.Is(retry(func() error { return unix.Connect(fd, socketAddress(socket)) }), unix.EPROTOTYPE)
}
