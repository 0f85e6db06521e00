package loopback

import (
	"bufio"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol/relay"
	"kata-runtime/virtcontainers/accept"
)

const (
	// maxConnections bounds the connections of the guest that are open at a
	// time. The agent makes further ones wait, or ends an old flow of datagrams,
	// long before. A process that may have few descriptors takes fewer.
	maxConnections = 1024
	// maxGreeting bounds the connections whose header has not come yet. An
	// honest agent sends it at once, and has fewer of them; when there are too
	// many, the oldest goes.
	maxGreeting = 512
	// greetingTimeout bounds how long that may take.
	greetingTimeout = 20 * time.Second
	// serverTimeout bounds how long a server may leave its queue of connections
	// full.
	serverTimeout = 10 * time.Second
	// idlePeriod is how long a flow of datagrams must at least be silent until
	// it ends. The agent ends it earlier.
	idlePeriod = 60 * time.Second
)

// errRefused is wrapped by errors about connections that no honest agent makes.
var errRefused = errors.New("refused a connection of the guest")

// Serve takes connections of the guest until the listener or l is closed, or the
// listener fails for good. It closes it.
func (l *Loopback) Serve(guest net.Listener) error {
	listener := accept.Patiently(guest, l.log)
	stop := context.AfterFunc(l.life, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if l.life.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept connections to loopback: %w", err)
		}
		if !l.admit(conn) {
			conn.Close()
			continue
		}
		go func() {
			defer l.leave(conn)
			if err := l.handle(conn); err != nil {
				l.log.Debug("the guest's connection to loopback ended", "error", err)
			}
		}()
	}
}

// admit counts a connection, which is to send its header, unless there are too
// many; leave undoes it. One that is given up for it counts no more, though it takes
// a moment to end: else many silent ones would have the next refused.
func (l *Loopback) admit(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life.Err() != nil {
		return false
	}
	if len(l.greeting) >= l.greetingLimit {
		oldest := l.greeting[0]
		oldest.Close()
		delete(l.open, oldest)
		l.greeting = l.greeting[1:]
	}
	if len(l.open) >= l.connectionLimit {
		return false
	}
	l.greeting = append(l.greeting, conn)
	l.open[conn] = struct{}{}
	l.background.Add(1) // Close has not begun to wait: it takes mu first
	return true
}

func (l *Loopback) leave(conn net.Conn) {
	l.mu.Lock()
	delete(l.open, conn)
	l.mu.Unlock()
	l.background.Done()
}

// greeted is called after the header. It is false for a connection that was given up
// meanwhile.
func (l *Loopback) greeted(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.greeting = slices.DeleteFunc(l.greeting, func(c net.Conn) bool { return c == conn })
	_, open := l.open[conn]
	return open
}

func (l *Loopback) handle(conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(l.life, func() { conn.Close() })
	defer stop()
	service, err := l.greet(conn)
	open := l.greeted(conn)
	if err != nil {
		return err
	}
	if !open { // It counts no more: what it connected to would be beyond all bounds.
		return fmt.Errorf("%w: its header came after too many others", errRefused)
	}
	server, err := l.connect(service)
	if err != nil {
		_, writeErr := conn.Write([]byte{relay.Refused})
		return errors.Join(err, writeErr)
	}
	if _, err := conn.Write([]byte{relay.Accepted}); err != nil {
		server.Close()
		return fmt.Errorf("answer the agent: %w", err)
	}
	if tcp, ok := server.(*net.TCPConn); ok {
		return relay.Copy(l.life, relay.TCPSocket{TCPConn: tcp}, conn)
	}
	return l.datagrams(server, conn)
}

// greet reads the header of a connection, which must carry the token and name a
// service.
func (l *Loopback) greet(conn net.Conn) (Service, error) {
	if err := conn.SetDeadline(time.Now().Add(greetingTimeout)); err != nil {
		return Service{}, fmt.Errorf("bound the header: %w", err)
	}
	header, err := relay.ReadServiceHeader(conn)
	if err != nil {
		return Service{}, err
	}
	if subtle.ConstantTimeCompare([]byte(header.Token), []byte(l.token)) != 1 {
		return Service{}, fmt.Errorf("%w: wrong token", errRefused)
	}
	service := Service{Network: header.Network.String(), Address: header.Address}
	l.mu.Lock()
	_, allowed := l.services[service]
	l.mu.Unlock()
	if !allowed {
		return Service{}, fmt.Errorf("%w: %v is no service", errRefused, service)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return Service{}, fmt.Errorf("lift the bound: %w", err)
	}
	return service, nil
}

// connect connects to a service, in the namespace.
func (l *Loopback) connect(service Service) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(l.life, serverTimeout)
	defer cancel()
	err = l.inNamespace(func() (err error) {
		// With a single address, package net makes the socket on this thread.
		if service.Network == "udp" {
			conn, err = new(net.Dialer).DialUDP(ctx, "udp", netip.AddrPort{}, service.Address)
			return err
		}
		conn, err = new(net.Dialer).DialTCP(ctx, "tcp", netip.AddrPort{}, service.Address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to loopback service %v: %w", service, err)
	}
	return conn, nil
}

// datagrams copies datagrams both ways until the guest or the service's address
// is gone, or nothing passes any more. It closes both.
func (l *Loopback) datagrams(server, peer net.Conn) error {
	ctx, cancel := context.WithCancel(l.life)
	closeBoth := func() {
		server.Close()
		peer.Close()
	}
	stop := context.AfterFunc(ctx, closeBoth)
	idle := relay.NewIdle(idlePeriod, cancel)
	defer idle.Stop()
	var answers sync.WaitGroup
	answers.Go(func() {
		defer cancel()
		answer(server, peer, idle)
	})
	err := ask(server, peer, idle)
	cancel()
	if stop() {
		closeBoth()
	}
	answers.Wait()
	return err
}

// ask hands the guest's datagrams to the service.
func ask(server, peer net.Conn, idle *relay.Idle) error {
	in := bufio.NewReader(peer)
	var buffer []byte
	for {
		data, err := relay.ReadDatagram(in, buffer)
		if err != nil {
			return err
		}
		buffer = data
		idle.Touch()
		_, err = server.Write(data)
		if errors.Is(err, unix.ECONNREFUSED) {
			_, err = server.Write(data) // the error was an earlier datagram's
		}
		// A datagram that the service does not take is lost, as UDP's may be.
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
	}
}

// answer hands the service's datagrams to the guest.
func answer(server, peer net.Conn, idle *relay.Idle) {
	buffer := make([]byte, relay.MaxDatagram)
	for {
		n, err := server.Read(buffer)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // nobody listens there now, which a datagram has found out
		}
		if err != nil {
			return
		}
		idle.Touch()
		if err := relay.WriteDatagram(peer, buffer[:n]); err != nil {
			return
		}
	}
}
