package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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

// lastAnswers bounds how long the host's connections hold up the agent's end.
const lastAnswers = 2 * time.Second

// serveSession serves one connection with a server of its own, so that each
// connection has its own handshake. It returns when the connection ends; when
// ctx ends, the host has lastAnswers to read the answers to its calls and to
// close the connection.
func serveSession(ctx context.Context, conn net.Conn, s *sandbox) error {
	hello := &handshake{}
	srv, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(hello.intercept))
	if err != nil {
		conn.Close()
		return fmt.Errorf("serve connection: %w", err)
	}
	protocol.RegisterAgentService(srv, s)
	session := newSessionConn(conn)
	stop := context.AfterFunc(ctx, func() { session.listener.Close() })
	defer stop()
	if err = srv.Serve(ctx, session.listener); errors.Is(err, net.ErrClosed) {
		err = nil
	}
	// Calls that wait have ended with ctx. An answer that arrives together with
	// the end of the connection may be lost, so the end is left to the host.
	late := time.NewTimer(lastAnswers)
	defer late.Stop()
	select {
	case <-session.closed:
	case <-late.C:
	}
	return errors.Join(err, session.Close(), srv.Close())
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
