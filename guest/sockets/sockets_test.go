package sockets

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
)

const (
	port  = 1027
	token = "0123456789abcdef0123456789abcdef"
)

// host is the other end of the agent's connections, in memory.
type host struct {
	conns chan net.Conn
}

func (h *host) dial(ctx context.Context, p uint32) (net.Conn, error) {
	if p != port {
		return nil, unix.ECONNREFUSED
	}
	ours, theirs := net.Pipe()
	select {
	case h.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve accepts one connection, answers its header, and says back what it
// hears.
func (h *host) serve(t *testing.T, answer byte) <-chan relay.Header {
	t.Helper()
	headers := make(chan relay.Header, 1)
	go func() {
		defer close(headers)
		conn := <-h.conns
		header, err := relay.ReadHeader(conn)
		if err != nil {
			t.Error(err)
			return
		}
		headers <- header
		if _, err := conn.Write([]byte{answer}); err != nil {
			return
		}
		local, server := net.Pipe()
		go func() {
			defer server.Close()
			_, _ = io.Copy(server, server)
		}()
		_ = relay.Copy(t.Context(), closer{local}, conn)
	}()
	return headers
}

type closer struct{ net.Conn }

func (closer) CloseRead() error    { return nil }
func (c closer) CloseWrite() error { return c.Close() }

func newRelay(t *testing.T) (*Relay, *host) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") //nolint:usetesting // an address has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{conns: make(chan net.Conn)}
	return New(slog.New(slog.DiscardHandler), filepath.Join(dir, "sockets"), h.dial), h
}

func direct(mode uint32) []*protocol.SocketBind {
	return []*protocol.SocketBind{{
		Name: "mounts/0", Source: "/shared/c1/mounts/0",
		Sockets: []*protocol.Socket{{Mode: mode, Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}},
	}}
}

func dialUnix(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestSocketItself(t *testing.T) {
	r, h := newRelay(t)
	r.Configure(port, token)
	sources, err := r.Prepare(t.Context(), "c1", direct(0o640))
	if err != nil {
		t.Fatal(err)
	}
	path := sources["/shared/c1/mounts/0"]
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o640 {
		t.Fatalf("socket %v, %v", info, err)
	}
	headers := h.serve(t, relay.Accepted)
	conn := dialUnix(t, path)
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	want := relay.Header{
		Token: token, Container: "c1", Bind: "mounts/0", UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
	}
	if got := <-headers; got != want {
		t.Errorf("header %+v, want %+v", got, want)
	}
	back := make([]byte, 5)
	if _, err := io.ReadFull(conn, back); err != nil || string(back) != "hello" {
		t.Errorf("%q came back, %v", back, err)
	}
	// Not before: the fake host's end closes both ways at once.
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close("c1"); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(back); !errors.Is(err, io.EOF) {
		t.Errorf("after the container's end: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the sockets' directory is left: %v", err)
	}
	if err := r.Close("c1"); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestRefusedByTheHost(t *testing.T) {
	r, h := newRelay(t)
	r.Configure(port, token)
	sources, err := r.Prepare(t.Context(), "c1", direct(0o600))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close("c1")
	h.serve(t, relay.Accepted+1)
	if _, err := dialUnix(t, sources["/shared/c1/mounts/0"]).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

func TestNotConfigured(t *testing.T) {
	r, _ := newRelay(t)
	if _, err := r.Prepare(t.Context(), "c1", direct(0o600)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if sources, err := r.Prepare(t.Context(), "c1", nil); sources != nil || err != nil {
		t.Errorf("%v, %v", sources, err)
	}
	if err := r.Enter("c1", os.Getpid(), nil); err != nil {
		t.Error(err)
	}
	if err := r.Update("c1", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestTooManyConnections: they wait, and go on when others have ended.
func TestTooManyConnections(t *testing.T) {
	r, h := newRelay(t)
	r.Configure(port, token)
	sources, err := r.Prepare(t.Context(), "c1", direct(0o600))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close("c1")
	path := sources["/shared/c1/mounts/0"]
	var first *net.UnixConn
	for range maxConnections {
		conn := dialUnix(t, path)
		if first == nil {
			first = conn
		}
		<-h.serve(t, relay.Accepted)
	}
	headers := h.serve(t, relay.Accepted)
	dialUnix(t, path)
	select {
	case <-headers:
		t.Errorf("more than %d connections", maxConnections)
	default:
	}
	first.Close()
	<-headers
}
