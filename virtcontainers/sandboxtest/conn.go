package sandboxtest

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
)

var errRefused = syscall.ECONNREFUSED

// socketPair connects two ends that have descriptors and buffers, as those of
// vsock have.
func socketPair() (ours, theirs net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "stream")
		conn, connErr := net.FileConn(file) // duplicates it
		file.Close()
		if connErr != nil {
			err = connErr
			continue
		}
		conns[i] = conn
	}
	if err != nil {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return conns[0], conns[1], nil
}

// creditConn is the host's end of the agent's connection.
type creditConn struct {
	net.Conn
	guest  *Guest
	once   sync.Once
	closed chan struct{}
}

// Write waits for the guest to take what it is sent, as a vsock's does.
func (c *creditConn) Write(p []byte) (int, error) {
	if c.guest.Deaf.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *creditConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// listener takes connections that are delivered to it, until it is closed or the
// machine has ended.
type listener struct {
	port   uint32
	conns  chan net.Conn
	ended  <-chan struct{}
	once   sync.Once
	closed chan struct{}
}

func newListener(port uint32, ended <-chan struct{}) *listener {
	return &listener{port: port, conns: make(chan net.Conn), ended: ended, closed: make(chan struct{})}
}

// deliver waits for the connection to be accepted, or closes it.
func (l *listener) deliver(conn net.Conn) {
	select {
	case l.conns <- conn:
	case <-l.closed:
		conn.Close()
	case <-l.ended:
		conn.Close()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
	case <-l.ended:
	}
	return nil, fmt.Errorf("accept: %w", net.ErrClosed)
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return hypervisor.VsockAddr{Port: l.port} }
