package stdio

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
)

// guest is the far end of a process's streams.
type guest struct {
	process               *virtcontainers.Process
	stdin, stdout, stderr *net.UnixConn
}

func newGuest(t testing.TB, want virtcontainers.IO) *guest {
	t.Helper()
	g := &guest{process: &virtcontainers.Process{}}
	if want.Stdin {
		g.process.Streams.Stdin, g.stdin = connection(t)
	}
	if want.Stdout {
		g.process.Streams.Stdout, g.stdout = connection(t)
	}
	if want.Stderr {
		g.process.Streams.Stderr, g.stderr = connection(t)
	}
	return g
}

func connection(t testing.TB) (host net.Conn, guest *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1].(*net.UnixConn)
}

// log collects what is logged.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// attached opens the config and begins. It is not in a hurry.
func attached(t testing.TB, config Config) (*Attachment, *guest, *log) {
	t.Helper()
	return attachedFor(t, time.Minute, config)
}

func attachedFor(t testing.TB, patience time.Duration, config Config) (*Attachment, *guest, *log) {
	t.Helper()
	logged := &log{}
	config.Log = slog.New(slog.NewTextHandler(logged, nil))
	a, err := open(t.Context(), config, patience)
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, a.IO())
	if err := a.Begin(t.Context(), g.process, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Release)
	return a, g, logged
}

func makeFifo(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// reader opens a fifo as containerd does: it waits for a writer.
func reader(t testing.TB, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func writer(t testing.TB, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// say writes to a stream, which takes it.
func say(t testing.TB, to io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

// hear reads exactly text.
func hear(t testing.TB, from io.Reader, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v; want %q", got, err, text)
	}
}

func hearEnd(t testing.TB, from io.Reader, text string) {
	t.Helper()
	got, err := io.ReadAll(from)
	if err != nil || string(got) != text {
		t.Fatalf("read %q, %v; want %q and the end", got, err, text)
	}
}

// closing calls Close and tells when it has returned.
func closing(a *Attachment) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Close(virtcontainers.Exit{})
	}()
	return done
}

func stillWaits(t testing.TB, done <-chan struct{}, duration time.Duration) {
	t.Helper()
	select {
	case <-done:
		t.Fatal("it was given up")
	case <-time.After(duration):
	}
}

// random returns bytes and their hash.
func random(size int) ([]byte, [32]byte) {
	data := make([]byte, size)
	_, _ = rand.Read(data) // never fails
	return data, sha256.Sum256(data)
}
