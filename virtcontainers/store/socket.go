package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Listen makes a unix socket of the container, kata.NAME in its directory,
// whatever the length of its path: an address has room for 107 bytes only, so it
// goes by way of a descriptor. network is "unix" or "unixpacket". Remove removes
// the socket.
func (e *Entry) Listen(name, network string) (*net.UnixListener, error) {
	path := e.Path(name)
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer parent.Close()
	listener, err := net.ListenUnix(network, address(parent, path, network))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false) // its path leads through a descriptor that is closed by then
	// It is made as the caller's umask wants. Nobody else gets into its directory
	// meanwhile, nor past the check of who has connected.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), listener.Close())
	}
	return listener, nil
}

// Dial connects to a socket that Listen has made. Without one the error wraps
// fs.ErrNotExist, without a listener ECONNREFUSED.
func (e *Entry) Dial(ctx context.Context, name, network string) (*net.UnixConn, error) {
	path := e.Path(name)
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	defer parent.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address(parent, path, network).Name)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("connect to %s: not a unix socket", path)
	}
	return unixConn, nil
}

func address(parent *os.File, path, network string) *net.UnixAddr {
	return &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), filepath.Base(path)), Net: network}
}
