package sockets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
	"kata-runtime/virtcontainers/share"
)

// writing is a connection that tells when something is written to it.
type writing struct {
	net.Conn
	begun chan struct{}
}

func (w writing) Write(p []byte) (int, error) {
	close(w.begun)
	return w.Conn.Write(p)
}

// A guest that does not take the answer does not keep a container from closing.
func TestCloseWhileTheAnswerIsNotTaken(t *testing.T) {
	h, g := newHost(t), newGuest(t)
	h.listen("a", "a")
	c := add(t, g, "c1", share.Mount{Name: "mounts/0", Tree: h.tree("a")})
	ours, theirs := net.Pipe()
	defer ours.Close()
	answering := writing{theirs, make(chan struct{})}
	g.conns <- answering
	err := relay.WriteHeader(ours, relay.Header{
		Token: g.Token(), Container: "c1", Bind: "mounts/0", UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
	})
	if err != nil {
		t.Fatal(err)
	}
	<-answering.begun
	c.Close()
}

// link gives the socket "a" another name.
func (h *host) link(name string) {
	h.t.Helper()
	if err := os.Link(filepath.Join(h.dir, "a"), filepath.Join(h.dir, name)); err != nil {
		h.t.Fatal(err)
	}
}

func TestANameThatCannotBeTold(t *testing.T) {
	h, g := newHost(t), newGuest(t)
	h.listen("a", "a")
	h.link("evil\xff")
	if err := os.Mkdir(filepath.Join(h.dir, "\xfe"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.link("\xfe/b")
	c := add(t, g, "c1", share.Mount{Name: "mounts/0", Tree: h.tree(".")})
	if _, err := proto.Marshal(&protocol.CreateContainerRequest{SocketBinds: c.Binds()}); err != nil {
		t.Error(err)
	}
	if got := paths(c.Binds()); got != "mounts/0:a" {
		t.Errorf("sockets %q", got)
	}
}

// logged returns a relay that writes warnings.
func logged(t *testing.T) (*Relay, *bytes.Buffer) {
	t.Helper()
	warnings := &bytes.Buffer{} // the handler writes under a lock, and tests read at the end
	r := New(slog.New(slog.NewTextHandler(warnings, &slog.HandlerOptions{Level: slog.LevelWarn})), 0)
	t.Cleanup(r.Close)
	return r, warnings
}

func TestTooManySocketsAreWarnedOfOnce(t *testing.T) {
	h := newHost(t)
	r, warnings := logged(t)
	h.listen("a", "a")
	for i := range maxSockets + 3 {
		h.link(fmt.Sprintf("l%d", i))
	}
	c, err := r.Add("c1", "c1", []share.Mount{{Name: "mounts/0", Tree: h.tree(".")}})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(strings.Fields(paths(c.Binds()))); n != maxSockets {
		t.Errorf("%d sockets", n)
	}
	r.Close()
	if n := strings.Count(warnings.String(), "\n"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, warnings)
	}
}

func TestLostEventsAreWarnedOfOnce(t *testing.T) {
	r, warnings := logged(t)
	w := &watcher{log: r.log}
	for range 3 {
		w.handle(-1, unix.IN_Q_OVERFLOW, "", map[*Container]bool{})
	}
	if n := strings.Count(warnings.String(), "\n"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, warnings)
	}
}

func TestFailuresToTellInARowAreWarnedOfOnce(t *testing.T) {
	h := newHost(t)
	r, warnings := logged(t)
	h.listen("a", "a")
	c, err := r.Add("c1", "c1", []share.Mount{{Name: "mounts/0", Tree: h.tree("a")}}) // nothing to watch
	if err != nil {
		t.Fatal(err)
	}
	outcomes, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		c.Follow(t.Context(), func(context.Context, *protocol.UpdateSocketsRequest) error { return <-outcomes })
	}()
	failure := errors.New("no")
	for _, outcome := range []error{failure, failure, failure, nil, failure, failure, nil} {
		c.notify()
		outcomes <- outcome
	}
	c.Close()
	<-done
	if n := strings.Count(warnings.String(), "\n"); n != 2 {
		t.Errorf("%d warnings:\n%s", n, warnings)
	}
}

// A container that makes directories without end has a bounded number of them watched.
func TestWatchesAreBounded(t *testing.T) {
	h, g := newHost(t), newGuest(t)
	for i := range 3 * maxDirectories {
		if err := os.MkdirAll(filepath.Join(h.dir, fmt.Sprintf("%d/%d", i%20, i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c := add(t, g, "c1", share.Mount{Name: "mounts/0", Tree: h.tree(".")})
	for i := range 2 * maxDirectories { // and later
		if err := os.Mkdir(filepath.Join(h.dir, fmt.Sprintf("later%d", i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.listen("last", "last")
	for !slices.ContainsFunc(c.Binds(), func(b *protocol.SocketBind) bool { return len(b.GetSockets()) > 0 }) {
		runtime.Gosched() // until the watcher is that far
	}
	g.mu.Lock()
	watch := g.watcher
	g.mu.Unlock()
	watch.mu.Lock()
	defer watch.mu.Unlock()
	if got := len(watch.places); got != maxDirectories {
		t.Errorf("%d directories are watched, want %d", got, maxDirectories)
	}
}
