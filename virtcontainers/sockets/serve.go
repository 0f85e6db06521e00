package sockets

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"kata-runtime/guest/protocol/relay"
	"kata-runtime/virtcontainers/accept"
)

const (
	// maxGreeting bounds the connections whose header has not come yet. An
	// honest one sends it at once; when there are too many, the oldest goes.
	maxGreeting = 64
	// greetingTimeout bounds how long that may take.
	greetingTimeout = 20 * time.Second
)

// Serve takes connections of the guest until the listener or the relay is closed,
// or the listener fails for good. It closes it.
func (r *Relay) Serve(listener net.Listener) error {
	l := accept.Patiently(listener, r.log)
	stop := context.AfterFunc(r.life, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			if r.life.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept connections to sockets: %w", err)
		}
		r.expect(conn)
		r.background.Go(func() {
			if err := r.handle(conn); err != nil {
				r.log.Debug("relayed connection ended", "error", err)
			}
		})
	}
}

// expect notes a connection that is to send its header.
func (r *Relay) expect(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.greeting) >= maxGreeting {
		r.greeting[0].Close()
		r.greeting = r.greeting[1:]
	}
	r.greeting = append(r.greeting, conn)
}

func (r *Relay) greeted(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.greeting = slices.DeleteFunc(r.greeting, func(c net.Conn) bool { return c == conn })
}

func (r *Relay) handle(conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(r.life, func() { conn.Close() })
	defer stop()
	header, err := r.greet(conn)
	r.greeted(conn)
	if err != nil {
		return err
	}
	c, err := r.admit(header.Container)
	if err != nil {
		return err
	}
	defer c.leave()
	// Close waits for this connection: a guest that does not take the answer must
	// not keep it.
	stopWithContainer := context.AfterFunc(c.life, func() { conn.Close() })
	defer stopWithContainer()
	local, err := c.connect(header)
	if err != nil {
		return fmt.Errorf("socket %q of bind mount %q of container %s: %w", header.Path, header.Bind, c.id, err)
	}
	if _, err := conn.Write([]byte{relay.Accepted}); err != nil {
		local.Close()
		return fmt.Errorf("answer the agent: %w", err)
	}
	return relay.Copy(c.life, local, conn)
}

// greet reads the header of a connection, which must carry the token.
func (r *Relay) greet(conn net.Conn) (relay.Header, error) {
	if err := conn.SetDeadline(time.Now().Add(greetingTimeout)); err != nil {
		return relay.Header{}, fmt.Errorf("bound the header: %w", err)
	}
	header, err := relay.ReadHeader(conn)
	if err != nil {
		return relay.Header{}, err
	}
	if subtle.ConstantTimeCompare([]byte(header.Token), []byte(r.token)) != 1 {
		return relay.Header{}, fmt.Errorf("%w: wrong token", errRefused)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return relay.Header{}, fmt.Errorf("lift the bound: %w", err)
	}
	return header, nil
}

// admit counts a connection of a container; leave undoes it.
func (r *Relay) admit(id string) (*Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, fmt.Errorf("%w: container %q has no sockets", errRefused, id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.connections >= r.connectionLimit || c.open >= r.containerLimit {
		return nil, fmt.Errorf("%w: container %s has %d connections, the pod %d", errRefused, id, c.open, r.connections)
	}
	r.connections++
	c.open++
	c.serving.Add(1)
	return c, nil
}

func (c *Container) leave() {
	c.relay.mu.Lock()
	c.relay.connections--
	c.relay.mu.Unlock()
	c.mu.Lock()
	c.open--
	c.mu.Unlock()
	c.serving.Done()
}

// connect connects to the socket that a header names.
func (c *Container) connect(header relay.Header) (*net.UnixConn, error) {
	select {
	case c.connecting <- struct{}{}:
	case <-c.life.Done():
		return nil, context.Cause(c.life)
	}
	defer func() { <-c.connecting }()
	socket, err := c.find(header.Bind, header.Path)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	return dial(socket, header.UID, header.GID)
}

// find opens a socket that the agent was told of, as it is now.
func (c *Container) find(name, socketPath string) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.binds[name]
	if b == nil || b.sockets[socketPath] == nil {
		return nil, fmt.Errorf("%w: there is none", errRefused)
	}
	return b.open(socketPath)
}
