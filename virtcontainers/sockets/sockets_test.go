package sockets

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
	"kata-runtime/virtcontainers/share"
)

// host is a directory with servers, whose names are short enough for an address.
type host struct {
	t   *testing.T
	dir string
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") //nolint:usetesting // an address has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &host{t: t, dir: dir}
}

// listen makes a server that says its name, and then what it is told.
func (h *host) listen(path, name string) net.Listener {
	h.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(h.dir, path), Net: "unix"})
	if err != nil {
		h.t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, name)
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return l
}

func (h *host) tree(path string) *os.File {
	h.t.Helper()
	file, err := os.OpenFile(filepath.Join(h.dir, path), unix.O_PATH, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { file.Close() })
	return file
}

// guest is a relay, and its guest, which dials it in memory.
type guest struct {
	*Relay

	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	g := &guest{Relay: New(slog.New(slog.DiscardHandler), 0), conns: make(chan net.Conn), done: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- g.Serve(g) }()
	t.Cleanup(func() {
		g.Relay.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return g
}

func (g *guest) Accept() (net.Conn, error) {
	select {
	case conn := <-g.conns:
		return conn, nil
	case <-g.done:
		return nil, net.ErrClosed
	}
}

func (g *guest) Addr() net.Addr { return nil }

// Close is the listener's.
func (g *guest) Close() error {
	g.once.Do(func() { close(g.done) })
	return nil
}

func (g *guest) dial() net.Conn {
	ours, theirs := net.Pipe()
	g.conns <- theirs
	return ours
}

// open sends a header and returns the connection if it was accepted.
func (g *guest) open(t *testing.T, h relay.Header) (net.Conn, bool) {
	t.Helper()
	if h.Token == "" {
		h.Token = g.Token()
	}
	h.UID, h.GID = uint32(os.Geteuid()), uint32(os.Getegid())
	conn := g.dial()
	t.Cleanup(func() { conn.Close() })
	if err := relay.WriteHeader(conn, h); err != nil {
		return nil, false
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return nil, false
	}
	return conn, answer[0] == relay.Accepted
}

// ask returns the name of the server that a header leads to, "" for none.
func (g *guest) ask(t *testing.T, h relay.Header) string {
	t.Helper()
	conn, ok := g.open(t, h)
	if !ok {
		return ""
	}
	ours, program := net.Pipe()
	defer program.Close()
	go func() { _ = relay.Copy(t.Context(), half{ours}, conn) }()
	name := make([]byte, 100)
	n, err := program.Read(name)
	if err != nil {
		t.Error(err)
	}
	return string(name[:n])
}

type half struct{ net.Conn }

func (half) CloseRead() error  { return nil }
func (half) CloseWrite() error { return nil }

func add(t *testing.T, g *guest, id string, mounts ...share.Mount) *Container {
	t.Helper()
	c, err := g.Add(id, id, mounts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// paths lists what a container shows, as "name:path".
func paths(binds []*protocol.SocketBind) string {
	var all []string
	for _, bind := range binds {
		for _, socket := range bind.GetSockets() {
			all = append(all, bind.GetName()+":"+socket.GetPath())
		}
	}
	return strings.Join(all, " ")
}

func TestSocketItself(t *testing.T) {
	h, g := newHost(t), newGuest(t)
	h.listen("a", "first")
	if err := os.Chmod(filepath.Join(h.dir, "a"), 0o640); err != nil {
		t.Fatal(err)
	}
	c := add(t, g, "c1", share.Mount{Name: "mounts/0", Tree: h.tree("a")})
	binds := c.Binds()
	if len(binds) != 1 || binds[0].GetDirectory() || len(binds[0].GetSockets()) != 1 {
		t.Fatalf("%v", binds)
	}
	if s := binds[0].GetSockets()[0]; s.GetMode() != 0o640 || s.GetUid() != uint32(os.Geteuid()) || s.GetPath() != "" {
		t.Errorf("socket %v", s)
	}
	if binds[0].GetSource() != "/run/kata/shared/c1/mounts/0" {
		t.Errorf("source %q", binds[0].GetSource())
	}
	if name := g.ask(t, relay.Header{Container: "c1", Bind: "mounts/0"}); name != "first" {
		t.Errorf("reached %q", name)
	}
}

// follow returns what the agent is told, and the channel on which it is told.
func follow(t *testing.T, c *Container) <-chan string {
	t.Helper()
	told := make(chan string, 100)
	done := make(chan struct{})
	ctx := t.Context()
	go func() {
		defer close(done)
		c.Follow(ctx, func(_ context.Context, update *protocol.UpdateSocketsRequest) error {
			told <- paths(update.GetSocketBinds())
			return nil
		})
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return told
}

// until waits for the agent to be told something.
func until(t *testing.T, told <-chan string, want func(string) bool) {
	t.Helper()
	var last string
	for {
		select {
		case last = <-told:
			if want(last) {
				return
			}
		case <-t.Context().Done():
			t.Fatalf("the agent was told %q at last", last)
		}
	}
}

func TestDirectory(t *testing.T) {
	h, g := newHost(t), newGuest(t)
	first := h.listen("a", "first")
	if err := os.WriteFile(filepath.Join(h.dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := add(t, g, "c1", share.Mount{Name: "rootfs", Tree: h.tree(".")}, share.Mount{Name: "mounts/0", Tree: h.tree(".")})
	if got := paths(c.Binds()); got != "mounts/0:a" {
		t.Fatalf("sockets %q", got)
	}
	told := follow(t, c)
	has := func(path string) func(string) bool {
		return func(all string) bool { return strings.Contains(all+" ", "mounts/0:"+path+" ") }
	}
	hasNot := func(path string) func(string) bool {
		return func(all string) bool { return !has(path)(all) }
	}
	to := func(path string) relay.Header {
		return relay.Header{Container: "c1", Bind: "mounts/0", Path: path}
	}
	if name := g.ask(t, to("a")); name != "first" {
		t.Errorf("reached %q", name)
	}

	// A server that begins anew, as servers do.
	first.Close()
	os.Remove(filepath.Join(h.dir, "a"))
	h.listen("a", "second")
	until(t, told, has("a"))
	if name := g.ask(t, to("a")); name != "second" {
		t.Errorf("reached %q after the restart", name)
	}

	// A directory that appears with a socket, moves, and goes.
	if err := os.Mkdir(filepath.Join(h.dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.listen("d/b", "below")
	until(t, told, has("d/b"))
	if err := os.Rename(filepath.Join(h.dir, "d"), filepath.Join(h.dir, "e")); err != nil {
		t.Fatal(err)
	}
	until(t, told, has("e/b"))
	if name := g.ask(t, to("e/b")); name != "below" {
		t.Errorf("reached %q below", name)
	}
	if name := g.ask(t, to("d/b")); name != "" {
		t.Errorf("reached %q where it was", name)
	}
	os.RemoveAll(filepath.Join(h.dir, "e"))
	until(t, told, hasNot("e/b"))

	// A socket without a server is nothing to relay: it may be a guest's.
	abandoned := h.listen("x", "nobody")
	until(t, told, has("x"))
	abandoned.Close()
	if err := os.Chmod(filepath.Join(h.dir, "x"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, told, hasNot("x"))
}

// TestNotReached: what a guest must not get at.
func TestNotReached(t *testing.T) {
	h, g := newHost(t), newGuest(t)
	if err := os.MkdirAll(filepath.Join(h.dir, "shown", "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.listen("secret", "secret")
	h.listen("shown/a", "a")
	h.listen("shown/d/b", "b")
	add(t, g, "c1", share.Mount{Name: "mounts/0", Tree: h.tree("shown")})
	add(t, g, "c2", share.Mount{Name: "mounts/0", Tree: h.tree("shown/d")})
	for _, header := range []relay.Header{
		{Container: "c1", Bind: "mounts/0", Path: "../secret"},
		{Container: "c1", Bind: "mounts/0", Path: "d/../../secret"},
		{Container: "c1", Bind: "mounts/0", Path: filepath.Join(h.dir, "secret")},
		{Container: "c1", Bind: "mounts/0", Path: ""},
		{Container: "c1", Bind: "mounts/0", Path: "./a"},
		{Container: "c1", Bind: "mounts/1", Path: "a"},
		{Container: "c2", Bind: "mounts/0", Path: "a"},
		{Container: "c3", Bind: "mounts/0", Path: "a"},
		{Token: strings.Repeat("x", relay.TokenLength), Container: "c1", Bind: "mounts/0", Path: "a"},
	} {
		if name := g.ask(t, header); name != "" {
			t.Errorf("%+v reached %q", header, name)
		}
	}
	// What the guest does with names that it can change.
	shown := filepath.Join(h.dir, "shown")
	if err := errors.Join(os.Remove(shown+"/a"), os.Symlink(h.dir+"/secret", shown+"/a"),
		os.Rename(shown+"/d", shown+"/old"), os.Symlink(h.dir, shown+"/d")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"a", "d/b", "d/secret"} {
		if name := g.ask(t, relay.Header{Container: "c1", Bind: "mounts/0", Path: path}); name != "" {
			t.Errorf("%s reached %q", path, name)
		}
	}
}

func TestBoundsOfConnections(t *testing.T) {
	h, g := newHost(t), newGuest(t)
	h.listen("a", "a")
	add(t, g, "c1", share.Mount{Name: "mounts/0", Tree: h.tree("a")})
	c2 := add(t, g, "c2", share.Mount{Name: "mounts/0", Tree: h.tree("a")})
	header := relay.Header{Container: "c1", Bind: "mounts/0"}
	for i := range maxPerContainer {
		if _, ok := g.open(t, header); !ok {
			t.Fatalf("connection %d refused", i)
		}
	}
	if _, ok := g.open(t, header); ok {
		t.Errorf("more than %d connections", maxPerContainer)
	}
	header.Container = "c2"
	if _, ok := g.open(t, header); !ok {
		t.Error("one container's connections keep another's out")
	}
	c2.Close()
	if _, ok := g.open(t, header); ok {
		t.Error("a container that is gone has connections")
	}
}

// TestSilentConnections: those without a header do not keep others out.
func TestSilentConnections(t *testing.T) {
	h, g := newHost(t), newGuest(t)
	h.listen("a", "a")
	add(t, g, "c1", share.Mount{Name: "mounts/0", Tree: h.tree("a")})
	oldest := g.dial()
	for range maxGreeting {
		conn := g.dial()
		t.Cleanup(func() { conn.Close() })
	}
	if _, err := oldest.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the oldest: %v", err)
	}
	if name := g.ask(t, relay.Header{Container: "c1", Bind: "mounts/0"}); name != "a" {
		t.Errorf("reached %q", name)
	}
}

func TestNothingToRelay(t *testing.T) {
	h, g := newHost(t), newGuest(t)
	if err := os.WriteFile(filepath.Join(h.dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := add(t, g, "c1", share.Mount{Name: "mounts/0", Tree: h.tree("file")})
	if c != nil || c.Binds() != nil {
		t.Errorf("%v", c.Binds())
	}
}
