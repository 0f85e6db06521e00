package bootstrap

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") //nolint:usetesting // whose directory has a long name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSocketPath(t *testing.T) {
	// As containerd computes it, so that both find the same one.
	hash := sha256.Sum256([]byte("/run/containerd/containerd.sock/k8s.io/one"))
	want := fmt.Sprintf("/run/containerd/s/%x", hash)
	got, err := socketPath(DefaultSocketDir, "/run/containerd/containerd.sock", "k8s.io", "one")
	if got != want || err != nil {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	others := map[string]bool{got: true}
	for _, of := range [][3]string{{"", "k8s.io", "one"}, {"/a.sock", "default", "one"}, {"/a.sock", "k8s.io", "two"}} {
		path, err := socketPath(DefaultSocketDir, of[0], of[1], of[2])
		if others[path] || err != nil {
			t.Errorf("%v: %s, %v", of, path, err)
		}
		others[path] = true
	}
	dir := "/" + strings.Repeat("d", maxSocketPath-1-1-64)
	if path, err := socketPath(dir, "", "k8s.io", "one"); len(path) != maxSocketPath || err != nil {
		t.Errorf("%d bytes, %v", len(path), err)
	}
	if _, err := socketPath(dir+"d", "", "k8s.io", "one"); err == nil || !strings.Contains(err.Error(), "socket_dir") {
		t.Errorf("a path that is too long: %v", err)
	}
	if _, err := socketPath("s", "", "k8s.io", "one"); err == nil {
		t.Error("a relative directory is taken")
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(shortDir(t), "new", "socket")
	first, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := listen(t.Context(), path); !errors.Is(err, errListens) {
		t.Errorf("a second time: %v", err)
	}
	first.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("it goes with the listener: %v", err)
	}
	second, err := listen(t.Context(), path)
	if err != nil {
		t.Fatalf("where one is left over: %v", err)
	}
	if err := removeStale(t.Context(), path); err != nil {
		t.Error(err)
	}
	if listens, err := serves(t.Context(), path); !listens || err != nil {
		t.Errorf("one in use was removed: %v", err)
	}
	second.Close()
	for range 2 {
		if err := removeStale(t.Context(), path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left over: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeStale(t.Context(), path); err == nil {
		t.Error("what is no socket is taken for one")
	}
}

// One whose queue is full is in use.
func TestBusySocketIsInUse(t *testing.T) {
	path := filepath.Join(shortDir(t), "socket")
	listener, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	raw, err := listener.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	setBacklog(t, raw, 0)
	for range 8 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		t.Cleanup(func() { conn.Close() })
	}
	if listens, err := serves(t.Context(), path); !listens || err != nil {
		t.Errorf("%v, %v", listens, err)
	}
}

func TestListenWhereOthersWrite(t *testing.T) {
	dir := filepath.Join(shortDir(t), "open")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), filepath.Join(dir, "socket")); err == nil || !strings.Contains(err.Error(), "others can write") {
		t.Errorf("%v", err)
	}
}

// Of several at once, one listens and the others find it, also where a socket is
// left over.
func TestListenAtOnce(t *testing.T) {
	for range 20 {
		path := filepath.Join(shortDir(t), "socket")
		left, err := listen(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		left.Close()
		var all sync.WaitGroup
		var mu sync.Mutex
		listeners, found := []*net.UnixListener{}, 0
		for range 8 {
			all.Go(func() {
				listener, err := listen(t.Context(), path)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					listeners = append(listeners, listener)
				case errors.Is(err, errListens):
					found++
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(listeners) != 1 || found != 7 {
			t.Errorf("%d listen, %d have found it", len(listeners), found)
		}
		for _, listener := range listeners {
			listener.Close()
		}
	}
}
