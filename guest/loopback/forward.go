package loopback

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"kata-runtime/guest/protocol/relay"
)

const (
	// maxForwarded bounds the forwarded connections that are open at a time.
	// The host has no more of them, so that none waits here.
	maxForwarded = 512
	// headerTimeout bounds how long the host may take to send a header.
	headerTimeout = 30 * time.Second
	// serverTimeout bounds how long a server may leave its queue of
	// connections full.
	serverTimeout = 10 * time.Second
)

// Forward takes connections of the host from listener, each for a port of the
// guest's loopback, until ctx or the listener ends. It closes the listener, and
// returns when every connection has ended.
func Forward(ctx context.Context, log *slog.Logger, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	slots := make(chan struct{}, maxForwarded)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept forwarded connections: %w", err)
		}
		connections.Go(func() {
			defer func() { <-slots }()
			if err := forward(ctx, conn); err != nil {
				log.Debug("forwarded connection ended", "error", err)
			}
		})
	}
}

// forward carries one connection to its end.
func forward(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(headerTimeout)); err != nil {
		return fmt.Errorf("bound the header: %w", err)
	}
	header, err := relay.ReadForwardHeader(conn)
	if err != nil {
		return err
	}
	server, err := dialServer(ctx, header)
	answer := relay.Accepted
	if err != nil {
		answer = relay.Refused
	}
	_, writeErr := conn.Write([]byte{answer})
	if err != nil {
		return errors.Join(err, writeErr)
	}
	if writeErr == nil {
		writeErr = conn.SetDeadline(time.Time{})
	}
	if writeErr != nil {
		return errors.Join(fmt.Errorf("answer the host: %w", writeErr), server.Abort())
	}
	return relay.Copy(ctx, server, conn)
}

// dialServer connects to a server on loopback, first over the family of the
// original connection: whoever said "localhost" means either.
func dialServer(ctx context.Context, header relay.ForwardHeader) (relay.TCPSocket, error) {
	addresses := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if header.IPv6 {
		addresses[0], addresses[1] = addresses[1], addresses[0]
	}
	dialer := net.Dialer{Timeout: serverTimeout}
	var errs []error
	for _, address := range addresses {
		conn, err := dialer.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(address, header.Port))
		if err == nil {
			return relay.TCPSocket{TCPConn: conn}, nil
		}
		errs = append(errs, err)
	}
	return relay.TCPSocket{}, fmt.Errorf("connect to a server in the guest: %w", errors.Join(errs...))
}
