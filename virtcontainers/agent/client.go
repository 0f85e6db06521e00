// Package agent is the host's client of the agent in a guest: the ttrpc
// connection with its version handshake, and the raw connections that carry a
// process's standard streams. What the guest answers is data of a stranger: the
// types bound its size, and callers bound its time by their context.
package agent

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containerd/ttrpc"

	"kata-runtime/guest/protocol"
)

// Dialer reaches a vsock port of the guest.
type Dialer interface {
	Dial(ctx context.Context, port uint32) (net.Conn, error)
}

// WithReader is a Dialer that has a process without privileges read what the guest's
// agent says: package reader.
type WithReader interface {
	Dialer
	// Reader is the socket of that process, which belongs to the Client then; nil: there
	// is none.
	Reader() *net.UnixConn
}

// Client is a connection to the agent. The agent's calls are methods of the
// embedded service.
type Client struct {
	protocol.AgentService

	dialer Dialer
	link   link
	// Guest is what the agent said of itself in the handshake.
	Guest *protocol.HelloResponse
}

// Connect dials the agent and settles the protocol version. The agent must have
// reported that it is ready: see AwaitReady. A guest that later does not take
// what it is sent ends the connection, and with it every call.
func Connect(ctx context.Context, dialer Dialer) (*Client, error) {
	return connect(ctx, dialer, writeTimeout)
}

func connect(ctx context.Context, dialer Dialer, patience time.Duration) (*Client, error) {
	conn, err := dialer.Dial(ctx, protocol.AgentPort)
	if err != nil {
		return nil, fmt.Errorf("dial the agent: %w", err)
	}
	link, err := newLink(readerOf(dialer), conn, patience)
	if err != nil {
		return nil, err
	}
	// ttrpc does not look at ctx while it writes.
	stop := context.AfterFunc(ctx, link.abort)
	defer stop()
	hello, err := link.Hello(ctx, &protocol.HelloRequest{Version: protocol.Version})
	if err != nil {
		if failed := link.failure(); failed != nil && !errors.Is(failed, ttrpc.ErrClosed) {
			err = failed // ttrpc says that the connection was closed
		} else if ctx.Err() != nil {
			err = context.Cause(ctx) // likewise
		}
		_ = link.close()
		return nil, fmt.Errorf("greet the agent: %w", err)
	}
	if hello.GetVersion() != protocol.Version {
		_ = link.close()
		return nil, fmt.Errorf("greet the agent: it speaks protocol version %d, this runtime %d: rebuild the guest image (make image)",
			hello.GetVersion(), protocol.Version)
	}
	return &Client{AgentService: link, dialer: dialer, link: link, Guest: hello}, nil
}

// link is a way to the agent.
type link interface {
	protocol.AgentService
	// failure is the ErrMalformed or ErrStalled, or another error, that ended the
	// connection, or nil.
	failure() error
	// abort ends the connection, and does not wait.
	abort()
	close() error
}

// newLink makes a connection with the agent a link, by way of the process that reads for
// it, unless reader is nil.
func newLink(reader *net.UnixConn, conn net.Conn, patience time.Duration) (link, error) {
	if reader != nil {
		r, err := newRemote(reader, conn, patience)
		if err != nil {
			return nil, err // not r, which would be no nil interface
		}
		return calls{r}, nil
	}
	checked := &checkedConn{Conn: conn, patience: patience}
	client := ttrpc.NewClient(checked, ttrpc.WithUnaryClientInterceptor(checked.bound))
	return direct{protocol.NewAgentClient(client), client, checked}, nil
}

// direct is a link by ttrpc.
type direct struct {
	protocol.AgentService
	client *ttrpc.Client
	conn   *checkedConn
}

func (d direct) failure() error { return d.conn.failure() }
func (d direct) abort()         { d.conn.Close() }
func (d direct) close() error   { return d.client.Close() }

// readerOf returns the socket of the process that reads for a dialer; nil: none does.
func readerOf(dialer Dialer) *net.UnixConn {
	if with, ok := dialer.(WithReader); ok {
		return with.Reader()
	}
	return nil
}

// Close ends the connection; calls under way fail.
func (c *Client) Close() error {
	if err := c.link.close(); err != nil {
		return fmt.Errorf("close the agent's connection: %w", err)
	}
	return nil
}

// OpenStream connects one standard stream of a process that is about to be
// created, and returns once the agent holds it. The caller closes the
// connection.
func (c *Client) OpenStream(ctx context.Context, header protocol.StreamHeader) (_ net.Conn, err error) {
	conn, err := c.dialer.Dial(ctx, protocol.StreamPort)
	if err != nil {
		return nil, fmt.Errorf("dial the agent for %s: %w", header.Stream, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			conn.Close()
		}
	}()
	if err := protocol.WriteStreamHeader(conn, header); err != nil {
		return nil, fmt.Errorf("open %s: %w", header.Stream, err)
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return nil, fmt.Errorf("open %s: the agent did not take it: %w", header.Stream, err)
	}
	if answer[0] != protocol.StreamAccepted {
		return nil, fmt.Errorf("open %s: the agent answered %#x", header.Stream, answer[0])
	}
	return conn, nil
}

// errBadToken says that a connection on the ready port did not carry the token.
var errBadToken = errors.New("a connection without the boot's token")

// AwaitReady takes connections from listener until the agent's ready message
// with token arrives, and closes the listener. Connections that carry anything
// else are dropped. It returns when ctx ends.
func AwaitReady(ctx context.Context, listener net.Listener, token string) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return fmt.Errorf("wait for the agent: %w", err)
		}
		if err := readToken(ctx, conn, token); err == nil {
			return nil
		}
	}
}

func readToken(ctx context.Context, conn net.Conn, token string) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	got := make([]byte, len(token)+1)
	if _, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("read the ready message: %w", err)
	}
	if subtle.ConstantTimeCompare(got, []byte(token+"\n")) != 1 {
		return errBadToken
	}
	return nil
}
