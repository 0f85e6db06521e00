//go:build vm

package sockets

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// TestDirectory shows sockets in a mount namespace of another process. The
// files are not the share's: what that does of itself when a file is replaced
// is the whole runtime's test.
func TestDirectory(t *testing.T) {
	r, _ := newRelay(t)
	r.Configure(port, token)
	dir := t.TempDir()
	for _, name := range []string{"source/sub", "root/place"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "sub/b", "c"} {
		bindSocket(t, filepath.Join(dir, "source", name))
	}
	if err := os.WriteFile(filepath.Join(dir, "source", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("c", filepath.Join(dir, "source", "link")); err != nil {
		t.Fatal(err)
	}
	child := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount --bind "$1/source" "$1/root/place" && echo ready && exec cat`, "sh", dir)
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer stdin.Close()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}

	source := filepath.Join(dir, "source")
	binds := func(paths ...string) []*protocol.SocketBind {
		bind := &protocol.SocketBind{Name: "mounts/0", Source: source, Directory: true}
		for _, path := range paths {
			bind.Sockets = append(bind.Sockets, &protocol.Socket{Path: path, Mode: 0o600})
		}
		return []*protocol.SocketBind{bind}
	}
	if _, err := r.Prepare(t.Context(), "c1", binds("a", "file", "link", "none", "../root")); err != nil {
		t.Fatal(err)
	}
	if err := r.Enter("c1", child.Process.Pid, map[string]string{source: dir + "/root/place"}); err != nil {
		t.Fatal(err)
	}
	shows := func(want ...string) {
		t.Helper()
		data, err := os.ReadFile("/proc/" + pid(child) + "/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(data)) {
			if _, rest, ok := strings.Cut(strings.Fields(line)[4], "/root/place/"); ok {
				got = append(got, rest)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("sockets shown: %q, want %q", got, want)
		}
	}
	shows("a")
	for _, step := range [][]string{{"a", "c", "sub/b"}, {"a", "c", "sub/b"}, {"c"}, nil, {"sub/b"}} {
		if err := r.Update("c1", binds(step...)); err != nil {
			t.Fatal(err)
		}
		shows(step...)
	}
	for _, left := range []string{"none", "root"} {
		if _, err := os.Lstat(filepath.Join(source, left)); err == nil {
			t.Errorf("looking for %s made it", left)
		}
	}
	if err := r.Close("c1"); err != nil {
		t.Error(err)
	}
}

func pid(child *exec.Cmd) string { return strconv.Itoa(child.Process.Pid) }

func bindSocket(t *testing.T, path string) {
	t.Helper()
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/proc/self/fd/" + strconv.Itoa(int(parent.Fd())) + "/" + filepath.Base(path), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}
