//go:build vm

package vm

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// server is a server on a unix socket of the host. Its name is its answer to
// a client that has nothing to say; anything else is said back.
type server struct {
	t        *testing.T
	listener *net.UnixListener
	all      sync.WaitGroup

	mu    sync.Mutex
	peers []unix.Ucred // clients as the server sees them
}

func listenAt(t *testing.T, path, name string, mode os.FileMode) *server {
	t.Helper()
	// An address has little room, and tests' directories have long names.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, listener: l}
	s.all.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			s.all.Go(func() { s.serve(conn, name) })
		}
	})
	t.Cleanup(s.close)
	return s
}

func (s *server) serve(conn *net.UnixConn, name string) {
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		s.t.Error(err)
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			s.mu.Lock()
			s.peers = append(s.peers, *peer)
			s.mu.Unlock()
		}
	})
	if n, err := io.Copy(conn, conn); n == 0 && err == nil {
		_, _ = io.WriteString(conn, name)
	}
}

func (s *server) close() {
	s.listener.Close()
	s.all.Wait()
}

// restart is what servers do when they start: away with the old socket.
func restart(t *testing.T, path, name string) *server {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	return listenAt(t, path, name, 0o666)
}

// TestSockets shares one container, which is shown a socket, and sockets in a
// directory, twice: once read-only.
func TestSockets(t *testing.T) {
	h := harness.New(t)
	dir := h.File("sockets")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	direct := listenAt(t, h.File("direct.sock"), "direct", 0o666)
	first := listenAt(t, filepath.Join(dir, "a.sock"), "first", 0o666)
	listenAt(t, filepath.Join(dir, "private.sock"), "private", 0o600)

	spec := bundle.Spec("/bin/sleep", "100000")
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/run/direct.sock", Type: "bind", Source: h.File("direct.sock"), Options: []string{"bind"}},
		specs.Mount{Destination: "/sockets", Type: "bind", Source: dir, Options: []string{"rbind", "rprivate"}},
		specs.Mount{Destination: "/readonly", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}},
	)
	b := h.Bundle(spec)
	if err := program.Build(t.Context(), filepath.Join(b, "rootfs", "bin", "socketclient"), "kata-runtime/test/vm/internal/socketclient"); err != nil {
		t.Fatal(err)
	}
	id := h.ID()
	silently(h, "create", "--pid-file", h.File("pid"), "-b", b, id)
	h.Must("start", id)
	client := func(t *testing.T, want string, args ...string) {
		t.Helper()
		flags, args := split(args)
		result := h.Run(append(append(append([]string{"exec"}, flags...), id, "/bin/socketclient"), args...)...)
		if result.Stdout != want+"\n" || result.Stderr != "" {
			t.Errorf("%s: exit code %d, %q, %q, want %q", strings.Join(args, " "), result.Code, result.Stdout, result.Stderr, want)
		}
	}

	t.Run("much both ways", func(t *testing.T) {
		client(t, "same", "echo", "/run/direct.sock", "10000000")
		client(t, "same", "echo", "/sockets/a.sock", "10000000")
		client(t, "same", "echo", "/readonly/a.sock", "1000")
	})
	t.Run("answer after the end of the question", func(t *testing.T) {
		client(t, "direct", "ask", "/run/direct.sock")
		client(t, "first", "ask", "/sockets/a.sock")
	})
	t.Run("many at once", func(t *testing.T) {
		client(t, "same", "many", "/sockets/a.sock", "200")
	})
	t.Run("other types", func(t *testing.T) {
		client(t, "true", "dgram", "/run/direct.sock")
	})
	t.Run("client's user", func(t *testing.T) {
		client(t, "direct", "-u=1000:100", "ask", "/run/direct.sock")
		direct.mu.Lock()
		peer := direct.peers[len(direct.peers)-1]
		direct.mu.Unlock()
		if peer.Uid != 1000 || peer.Gid != 100 {
			t.Errorf("the server saw user %d, group %d", peer.Uid, peer.Gid)
		}
		client(t, "private", "ask", "/sockets/private.sock")
		client(t, "failed: dial unix /sockets/private.sock: connect: permission denied",
			"-u=1000:100", "ask", "/sockets/private.sock")
	})
	t.Run("server restarts", func(t *testing.T) {
		first.close()
		client(t, "", "ask", "/sockets/a.sock") // the stale socket: taken and hung up
		restart(t, filepath.Join(dir, "a.sock"), "second")
		client(t, "second", "await", "/sockets/a.sock", "second")
		client(t, "second", "await", "/readonly/a.sock", "second")
	})
	t.Run("socket appears", func(t *testing.T) {
		listenAt(t, filepath.Join(dir, "late.sock"), "late", 0o666)
		client(t, "late", "await", "/sockets/late.sock", "late")
		listenAt(t, filepath.Join(dir, "sub", "late.sock"), "below", 0o666)
		client(t, "below", "await", "/sockets/sub/late.sock", "below")
		if err := os.Mkdir(filepath.Join(dir, "new"), 0o755); err != nil {
			t.Fatal(err)
		}
		listenAt(t, filepath.Join(dir, "new", "x.sock"), "deep", 0o666)
		client(t, "deep", "await", "/sockets/new/x.sock", "deep")
	})
	t.Run("socket disappears", func(t *testing.T) {
		if err := os.Remove(filepath.Join(dir, "late.sock")); err != nil {
			t.Fatal(err)
		}
		client(t, "gone", "gone", "/sockets/late.sock")
	})
	t.Run("container's own server", func(t *testing.T) {
		client(t, "own", "serve", "/sockets/own.sock", "/sockets/a.sock", "/run/direct.sock")
	})
	t.Run("guesses on the host's port", func(t *testing.T) {
		client(t, "guessed", "guess", "1027")
	})
	h.Must("delete", "--force", id)
	h.Reap(number(t, h.File("pid")))
}

// split separates flags of exec, which stand first, from the program's.
func split(args []string) (flags, rest []string) {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		flags, args = append(flags, args[0]), args[1:]
	}
	return flags, args
}
