package loopback

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
	"kata-runtime/virtcontainers/accept"
	"kata-runtime/virtcontainers/osthread"
)

const (
	// maxInbound bounds the connections of a family that are open at a time.
	// Further ones wait to be accepted. The agent takes twice as many.
	maxInbound = 256
	// agentTimeout bounds how long the agent may take to connect to a server.
	agentTimeout = 30 * time.Second
)

// takeInbound begins to take connections to loopback in the namespace. On an
// error nothing of it is left.
func (l *Loopback) takeInbound(services []Service) error {
	var listeners []*net.TCPListener
	err := l.inNamespace(func() (err error) {
		listeners, err = listen(l.life)
		return err
	})
	if err != nil {
		return err
	}
	steering, err := steer(l.namespace, listeners, exempt(services))
	if err != nil {
		for _, listener := range listeners {
			listener.Close()
		}
		return err
	}
	l.steering = steering
	for _, listener := range listeners {
		patient := accept.Patiently(listener, l.log)
		l.inbound = append(l.inbound, patient)
		l.background.Go(func() { l.serveInbound(patient) })
	}
	return nil
}

// inNamespace calls f on a thread that is in the pod's network namespace: sockets
// that it makes are there for good.
func (l *Loopback) inNamespace(f func() error) error {
	return osthread.Run(func() error {
		if err := unix.Setns(int(l.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", l.namespace.Name(), err)
		}
		return f()
	})
}

// listen makes a listener for each family, on a port that the kernel chooses:
// nobody is meant to know it.
func listen(ctx context.Context) ([]*net.TCPListener, error) {
	var listeners []*net.TCPListener
	var errs []error
	for _, network := range []string{"tcp4", "tcp6"} {
		config := net.ListenConfig{Control: bindEarly}
		config.SetMultipathTCP(false) // the kernel's map of sockets takes none
		address := "127.0.0.1:0"
		if network == "tcp6" {
			address = "[::1]:0"
		}
		listener, err := config.Listen(ctx, network, address)
		if err != nil {
			errs = append(errs, err) // a kernel may lack one of the families
			continue
		}
		if tcp, ok := listener.(*net.TCPListener); ok {
			listeners = append(listeners, tcp)
		}
	}
	if len(listeners) == 0 {
		return nil, fmt.Errorf("listen on loopback: %w", errors.Join(errs...))
	}
	return listeners, nil
}

// bindEarly lets a socket be bound to loopback before that is up, or has its
// address.
func bindEarly(network, _ string, raw syscall.RawConn) error {
	var optErr error
	err := raw.Control(func(fd uintptr) {
		if network == "tcp6" {
			optErr = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		} else {
			optErr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		}
	})
	return errors.Join(err, optErr)
}

// serveInbound accepts connections until the listener is closed.
func (l *Loopback) serveInbound(listener *accept.Listener) {
	slots := make(chan struct{}, max(1, accept.AtMost(2*maxInbound)/2))
	for {
		select {
		case slots <- struct{}{}:
		case <-l.life.Done():
			return
		}
		conn, err := listener.Accept()
		if err != nil {
			if l.life.Err() == nil {
				l.log.Error("connections to localhost in the pod's network namespace reach the guest no more", "error", err)
			}
			return
		}
		l.background.Go(func() {
			defer func() { <-slots }()
			tcp, ok := conn.(*net.TCPConn)
			if !ok { // a listener of TCP has no other
				conn.Close()
				return
			}
			if err := l.forward(relay.TCPSocket{TCPConn: tcp}); err != nil {
				l.log.Debug("connection to localhost of the pod ended", "to", conn.LocalAddr(), "error", err)
			}
		})
	}
}

// forward carries one connection to its end.
func (l *Loopback) forward(client relay.TCPSocket) error {
	peer, err := l.dialServer(client)
	if err != nil {
		return errors.Join(err, client.Abort())
	}
	return relay.Copy(l.life, client, peer)
}

// dialServer lets the agent connect to the port that the client has connected to.
func (l *Loopback) dialServer(client relay.TCPSocket) (_ net.Conn, err error) {
	local, ok := client.LocalAddr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("connection to a %T", client.LocalAddr())
	}
	header := relay.ForwardHeader{IPv6: local.IP.To4() == nil, Port: uint16(local.Port)}
	ctx, cancel := context.WithTimeout(l.life, agentTimeout)
	defer cancel()
	peer, err := l.dial(ctx, protocol.ForwardPort)
	if err != nil {
		return nil, fmt.Errorf("dial the agent: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = peer.SetDeadline(time.Unix(1, 0)) })
	if err = relay.WriteForwardHeader(peer, header); err == nil {
		err = relay.ReadAnswer(peer)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		peer.Close()
		return nil, fmt.Errorf("let the agent connect to port %d: %w", header.Port, err)
	}
	return peer, nil
}
