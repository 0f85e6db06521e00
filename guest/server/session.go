package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
)

// serveAgent serves the ttrpc service on every connection that l accepts, until
// ctx ends or l fails, and waits for them all.
func serveAgent(ctx context.Context, log *slog.Logger, l net.Listener, s *sandbox) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept connection of the host: %w", err)
		}
		sessions.Go(func() {
			if err := serveSession(ctx, conn, s); err != nil {
				log.Warn("connection of the host ended", "error", err)
			}
		})
	}
}

// serveSession serves one connection with a server of its own, so that each
// connection has its own handshake. It returns when the connection ends.
func serveSession(ctx context.Context, conn net.Conn, s *sandbox) error {
	hello := &handshake{}
	srv, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(hello.intercept))
	if err != nil {
		conn.Close()
		return fmt.Errorf("serve connection: %w", err)
	}
	protocol.RegisterAgentService(srv, s)
	once := newConnListener(conn)
	stop := context.AfterFunc(ctx, func() { once.Close() })
	defer stop()
	err = srv.Serve(ctx, once)
	closeErr := srv.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, closeErr)
}

// handshake refuses calls before the version was agreed on.
type handshake struct{ done atomic.Bool }

func (h *handshake) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	isHello := strings.HasSuffix(info.FullMethod, "/Hello")
	if !isHello && !h.done.Load() {
		return nil, status.Error(codes.FailedPrecondition, "Hello must be the first call on a connection")
	}
	response, err := method(ctx, unmarshal)
	if isHello && err == nil {
		h.done.Store(true)
	}
	return response, toStatus(err)
}

// connListener is a listener that returns one connection and ends with it.
type connListener struct {
	conn   net.Conn
	first  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newConnListener(conn net.Conn) *connListener {
	l := &connListener{conn: conn, first: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.first <- &sessionConn{Conn: conn, listener: l}
	return l
}

// Accept returns the connection once, and net.ErrClosed when it has ended.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.first:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close closes the connection too.
func (l *connListener) Close() error {
	err := error(nil)
	l.once.Do(func() {
		close(l.closed)
		err = l.conn.Close()
	})
	return err
}

// Addr returns the address that the connection arrived at.
func (l *connListener) Addr() net.Addr { return l.conn.LocalAddr() }

// sessionConn ends its listener when it is closed.
type sessionConn struct {
	net.Conn
	listener *connListener
}

// Read ends regularly when the agent itself closed the connection.
func (c *sessionConn) Read(buffer []byte) (int, error) {
	n, err := c.Conn.Read(buffer)
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

func (c *sessionConn) Close() error { return c.listener.Close() }
