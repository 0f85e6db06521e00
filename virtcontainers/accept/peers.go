package accept

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Peers is a listener of unix sockets that lets in processes of this process's
// user and of root alone, whatever the mode of the socket's directory is. Others
// are hung up.
type Peers struct {
	*net.UnixListener

	Log *slog.Logger
}

// Accept implements net.Listener.
func (p Peers) Accept() (net.Conn, error) {
	for {
		conn, err := p.AcceptUnix()
		if err != nil {
			return nil, err
		}
		user, err := userOf(conn)
		if err == nil && (user == 0 || user == os.Geteuid()) {
			return conn, nil
		}
		p.Log.Warn("a connection is refused", "listener", p.Addr(), "user", user, "error", err)
		conn.Close()
	}
}

// userOf is the user of the process that has connected.
func userOf(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("ask who has connected: %w", err)
	}
	var peer *unix.Ucred
	var peerErr error
	err = raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, peerErr); err != nil {
		return -1, fmt.Errorf("ask who has connected: %w", err)
	}
	return int(peer.Uid), nil
}
