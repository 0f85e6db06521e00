package sockets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
)

// connectTimeout bounds how long the host may take to connect.
const connectTimeout = 30 * time.Second

// listener is the agent's socket in the place of one of the host's.
type listener struct {
	*net.UnixListener

	path     string // in the guest
	dev, ino uint64
	header   relay.Header
}

// listen makes the agent's socket for one of the host's and begins to serve it.
func (c *container) listen(bind string, socket *protocol.Socket) (_ *listener, err error) {
	if c.sockets >= maxSockets {
		return nil, fmt.Errorf("relay socket %q of %s: container %q has %d already", socket.GetPath(), bind, c.id, maxSockets)
	}
	path := c.nextPath()
	l := &listener{path: path, header: relay.Header{
		Token: c.token, Container: c.id, Bind: bind, Path: socket.GetPath(),
	}}
	if l.UnixListener, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		return nil, fmt.Errorf("relay socket %q of %s: %w", socket.GetPath(), bind, err)
	}
	var stat unix.Stat_t
	err = errors.Join(l.setOwner(socket), unix.Lstat(path, &stat))
	l.dev, l.ino = stat.Dev, stat.Ino
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("relay socket %q of %s: %w", socket.GetPath(), bind, err)
	}
	c.sockets++
	c.serves.Go(func() { c.serve(l) })
	return l, nil
}

// setOwner gives the agent's socket the owner and the mode of the host's.
func (l *listener) setOwner(socket *protocol.Socket) error {
	// The owner first: a change of it takes special bits away.
	err := os.Lchown(l.path, int(socket.GetUid()), int(socket.GetGid()))
	return errors.Join(err, unix.Chmod(l.path, socket.GetMode()&0o7777))
}

// serve accepts connections until the listener is closed. A container with all
// its connections open finds that further ones wait.
func (c *container) serve(l *listener) {
	for {
		select {
		case c.slots <- struct{}{}:
		case <-c.life.Done():
			return
		}
		conn, err := l.AcceptUnix()
		if err != nil {
			<-c.slots
			if !errors.Is(err, net.ErrClosed) {
				c.relay.log.Warn("socket is relayed no more", "container", c.id, "socket", l.header.Path, "error", err)
			}
			return
		}
		c.serves.Go(func() {
			defer func() { <-c.slots }()
			if err := c.carry(conn, l.header); err != nil {
				c.relay.log.Debug("relayed connection ended", "container", c.id, "socket", l.header.Path, "error", err)
			}
		})
	}
}

// carry relays one connection to its end.
func (c *container) carry(conn *net.UnixConn, header relay.Header) error {
	peer, err := c.connect(conn, header)
	if err != nil {
		conn.Close()
		return err
	}
	return relay.Copy(c.life, conn, peer)
}

// connect lets the host connect to its socket in the name of conn's client.
func (c *container) connect(conn *net.UnixConn, header relay.Header) (_ net.Conn, err error) {
	credentials, err := peerCredentials(conn)
	if err != nil {
		return nil, err
	}
	header.UID, header.GID = credentials.Uid, credentials.Gid
	ctx, cancel := context.WithTimeout(c.life, connectTimeout)
	defer cancel()
	peer, err := c.relay.dial(ctx, c.port)
	if err != nil {
		return nil, fmt.Errorf("dial the host: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = peer.SetDeadline(time.Unix(1, 0)) })
	if err = relay.WriteHeader(peer, header); err == nil {
		var answer [1]byte
		if _, err = io.ReadFull(peer, answer[:]); err == nil && answer[0] != relay.Accepted {
			err = fmt.Errorf("%w: answer %#x", relay.ErrMalformed, answer[0])
		}
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		peer.Close()
		return nil, fmt.Errorf("let the host connect: %w", err)
	}
	return peer, nil
}

func peerCredentials(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("find a socket's client: %w", err)
	}
	var credentials *unix.Ucred
	var optErr error
	err = raw.Control(func(fd uintptr) {
		credentials, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, optErr); err != nil {
		return nil, fmt.Errorf("find a socket's client: %w", err)
	}
	return credentials, nil
}
