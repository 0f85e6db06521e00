package stdio

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// short is the patience where it is to end.
const short = 200 * time.Millisecond

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
	t.Cleanup(func() {
		a.Abandon()
		a.Close(virtcontainers.Exit{})
	})
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

func TestNothing(t *testing.T) {
	a, _, _ := attached(t, Config{})
	if a.IO() != (virtcontainers.IO{}) {
		t.Errorf("streams are asked for: %+v", a.IO())
	}
	a.CloseStdin()
	a.Close(virtcontainers.Exit{})
	a.Close(virtcontainers.Exit{})
}

func TestFifos(t *testing.T) {
	in, out, errors := makeFifo(t), makeFifo(t), makeFifo(t)
	a, g, logged := attached(t, Config{Stdin: in, Stdout: out, Stderr: "fifo://" + errors})
	if a.IO() != (virtcontainers.IO{Stdin: true, Stdout: true, Stderr: true}) {
		t.Errorf("streams asked for: %+v", a.IO())
	}
	stdout, stderr, stdin := reader(t, out), reader(t, errors), writer(t, in)
	say(t, stdin, "input")
	hear(t, g.stdin, "input")
	say(t, g.stdout, "output")
	hear(t, stdout, "output")
	say(t, g.stderr, "errors")
	hear(t, stderr, "errors")
	say(t, g.stdout, "last words")
	g.stdout.Close()
	g.stderr.Close()
	a.Close(virtcontainers.Exit{})
	hearEnd(t, stdout, "last words")
	hearEnd(t, stderr, "")
	hearEnd(t, g.stdin, "")
	if _, err := stdin.WriteString("more"); !isEnd(err) {
		t.Errorf("write to the stdin of a process that has ended: %v", err)
	}
	if logged.String() != "" {
		t.Error(logged)
	}
}

// All that a process with a terminal prints comes by stdout, whatever is named.
func TestTerminal(t *testing.T) {
	in, out := makeFifo(t), makeFifo(t)
	a, _, _ := attached(t, Config{Stdin: in, Stdout: out, Stderr: "whatever:this", Terminal: true})
	if a.IO() != (virtcontainers.IO{Stdin: true, Stdout: true}) {
		t.Errorf("streams asked for: %+v", a.IO())
	}
}

func TestRefused(t *testing.T) {
	directory := t.TempDir()
	for _, test := range []struct {
		config Config
		want   error
		text   string
	}{
		{Config{Stdout: "ttrpc+unix:///run/x?streaming_id=1"}, ErrUnsupported, "stdout"},
		{Config{Stderr: "https://example.com"}, ErrUnsupported, "stderr"},
		{Config{Stdin: "file:///etc/passwd"}, ErrUnsupported, "stdin"},
		{Config{Stdout: "%zz://"}, ErrUnsupported, "stdout"},
		{Config{Stdout: "file://relative"}, nil, "file:///PATH"},
		{Config{Stdout: "binary://relative"}, nil, "binary:///PATH"},
		{Config{Stdout: "/does/not/exist"}, os.ErrNotExist, "stdout"},
		{Config{Stdin: "/does/not/exist"}, os.ErrNotExist, "stdin"},
		{Config{Stdout: directory}, nil, "neither a fifo nor a file"},
		{Config{Stdout: "binary:///does/not/exist"}, os.ErrNotExist, "start the logging program"},
		{Config{Stdout: makeFifo(t), Stderr: "binary:///does/not/exist"}, os.ErrNotExist, "stderr"},
	} {
		test.config.Log = slog.New(slog.DiscardHandler)
		_, err := Open(t.Context(), test.config)
		if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%+v: %v", test.config, err)
		}
	}
}

// Nobody waits for a reader: one that comes late gets everything, and the end.
func TestLateReader(t *testing.T) {
	for _, text := range []string{"", "early words"} {
		out := makeFifo(t)
		a, g, logged := attached(t, Config{Stdout: out})
		say(t, g.stdout, text)
		g.stdout.Close()
		done := closing(a)
		stillWaits(t, done, 50*time.Millisecond)
		hearEnd(t, reader(t, out), text)
		<-done
		if logged.String() != "" {
			t.Error(logged)
		}
	}
}

// containerd is restarted while a process writes and reads.
func TestReaderAndWriterComeBack(t *testing.T) {
	in, out := makeFifo(t), makeFifo(t)
	a, g, _ := attached(t, Config{Stdin: in, Stdout: out})
	for _, text := range []string{"one", "two", "three"} {
		stdin, stdout := writer(t, in), reader(t, out)
		say(t, stdin, text)
		hear(t, g.stdin, text)
		say(t, g.stdout, text)
		hear(t, stdout, text)
		stdin.Close()
		stdout.Close()
		say(t, g.stdout, "meanwhile") // does not break
		next := reader(t, out)
		hear(t, next, "meanwhile")
		next.Close()
	}
	a.CloseStdin()
	hearEnd(t, g.stdin, "")
}

// The reader is gone when the process ends, comes back, and has lost nothing.
func TestReaderComesBackAfterTheEnd(t *testing.T) {
	out := makeFifo(t)
	a, g, _ := attached(t, Config{Stdout: out})
	first := reader(t, out)
	say(t, g.stdout, "one")
	hear(t, first, "one")
	first.Close()
	data, _ := random(3 << 20) // more than any buffer holds
	go func() {
		_, _ = g.stdout.Write(data)
		g.stdout.Close()
	}()
	done := closing(a)
	stillWaits(t, done, 50*time.Millisecond)
	got, err := io.ReadAll(reader(t, out))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d came, %v", len(got), len(data), err)
	}
	<-done
}

// Nobody waits for a reader who has gone, if nothing was written for him.
func TestReaderHasGone(t *testing.T) {
	out := makeFifo(t)
	there, err := os.OpenFile(out, os.O_RDONLY|unix.O_NONBLOCK, 0) // there is no writer yet
	if err != nil {
		t.Fatal(err)
	}
	a, g, _ := attachedFor(t, time.Hour, Config{Stdout: out})
	there.Close()
	g.stdout.Close()
	a.Close(virtcontainers.Exit{})
}

// A fifo that nobody reads holds nobody up for ever.
func TestNoReader(t *testing.T) {
	for _, size := range []int{0, 10, 3 << 20} {
		out := makeFifo(t)
		a, g, logged := attachedFor(t, short, Config{Stdout: out})
		data, _ := random(size)
		go func() {
			_, _ = g.stdout.Write(data)
			g.stdout.Close()
		}()
		a.Close(virtcontainers.Exit{})
		if size > 0 && !strings.Contains(logged.String(), "lost") {
			t.Errorf("%d bytes: logged %q", size, logged)
		}
	}
}

// A reader that is there and does not read, likewise.
func TestReaderThatNeverReads(t *testing.T) {
	out := makeFifo(t)
	a, g, logged := attachedFor(t, short, Config{Stdout: out})
	reader(t, out)
	data, _ := random(3 << 20)
	go func() { _, _ = g.stdout.Write(data) }()
	a.Close(virtcontainers.Exit{})
	if !strings.Contains(logged.String(), "its reader takes nothing") {
		t.Error(logged)
	}
}

// Nobody can come to a fifo that has no name any more.
func TestRemovedFifo(t *testing.T) {
	out := makeFifo(t)
	a, g, logged := attachedFor(t, time.Hour, Config{Stdout: out})
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	say(t, g.stdout, "unheard")
	g.stdout.Close()
	a.Close(virtcontainers.Exit{})
	if !strings.Contains(logged.String(), "7 bytes are lost") {
		t.Error(logged)
	}
}

// A slow reader may take its time, as long as it takes something.
func TestSlowReader(t *testing.T) {
	out := makeFifo(t)
	a, g, logged := attachedFor(t, time.Second, Config{Stdout: out})
	data, want := random(3 << 20)
	go func() {
		_, _ = g.stdout.Write(data)
		g.stdout.Close()
	}()
	stdout := reader(t, out)
	done := closing(a)
	hash := sha256.New()
	buffer := make([]byte, 128<<10)
	for {
		n, err := stdout.Read(buffer)
		hash.Write(buffer[:n])
		if err != nil {
			break
		}
		if n > 0 {
			<-time.After(a.patience / 16)
		}
	}
	<-done
	if [32]byte(hash.Sum(nil)) != want {
		t.Errorf("not what was written; log: %v", logged)
	}
}

// A guest that never ends a stream, or sends a byte now and then, is given up in
// time, however the reader reads.
func TestGuestThatDoesNotEnd(t *testing.T) {
	out, file := makeFifo(t), filepath.Join(t.TempDir(), "log")
	a, g, logged := attachedFor(t, short, Config{Stdout: out, Stderr: "file://" + file})
	stdout := reader(t, out)
	say(t, g.stdout, "last words")
	hear(t, stdout, "last words")
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(a.patience / 10):
				_, _ = g.stderr.Write([]byte("."))
			}
		}
	}()
	a.Close(virtcontainers.Exit{})
	hearEnd(t, stdout, "")
	if n := strings.Count(logged.String(), "the guest does not end it"); n != 2 {
		t.Errorf("logged %d times: %s", n, logged)
	}
}

// Nor does one that sends and sends.
func TestGuestThatFloods(t *testing.T) {
	out := makeFifo(t)
	a, g, logged := attached(t, Config{Stdout: out})
	done := drainAll(reader(t, out))
	go func() {
		data := make([]byte, largeBuffer)
		for {
			if _, err := g.stdout.Write(data); err != nil {
				return
			}
		}
	}()
	a.Close(virtcontainers.Exit{})
	<-done
	if !strings.Contains(logged.String(), "bytes after the process's end") {
		t.Error(logged)
	}
}

func TestAbandon(t *testing.T) {
	in, out, errors := makeFifo(t), makeFifo(t), makeFifo(t)
	a, g, _ := attachedFor(t, time.Hour, Config{Stdin: in, Stdout: out, Stderr: errors})
	reader(t, out)
	data, _ := random(3 << 20)
	go func() { _, _ = g.stdout.Write(data) }() // is not read
	say(t, g.stderr, "unheard")
	g.stderr.Close() // waits for a reader
	go func() { _, _ = writer(t, in).Write(data) }()
	done := closing(a)
	stillWaits(t, done, 100*time.Millisecond)
	a.Abandon()
	<-done
}

func TestBeginAfterTheEnd(t *testing.T) {
	a, err := Open(t.Context(), Config{Stdout: makeFifo(t), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	a.Abandon()
	g := newGuest(t, a.IO())
	if err := a.Begin(t.Context(), g.process, nil); err == nil {
		t.Error("begun")
	}
	hearEnd(t, g.stdout, "")
	a.Close(virtcontainers.Exit{})
}

// What was written before CloseStdin reaches the process, and then the end does.
func TestCloseStdin(t *testing.T) {
	data, want := random(2 << 20)
	for name, hold := range map[string]bool{"closed": false, "kept open": true} {
		t.Run(name, func(t *testing.T) {
			in := makeFifo(t)
			a, g, _ := attached(t, Config{Stdin: in})
			stdin := writer(t, in)
			written := make(chan struct{})
			go func() {
				defer close(written)
				_, _ = stdin.Write(data)
				if !hold {
					stdin.Close()
				}
				a.CloseStdin()
				a.CloseStdin()
			}()
			hash := sha256.New()
			if _, err := io.Copy(hash, g.stdin); err != nil {
				t.Error(err)
			}
			<-written
			if [32]byte(hash.Sum(nil)) != want {
				t.Error("the process has read something else than was written")
			}
		})
	}
}

// A process that reads slowly loses nothing of what was written before.
func TestCloseStdinOfASlowProcess(t *testing.T) {
	in := makeFifo(t)
	a, g, _ := attached(t, Config{Stdin: in})
	stdin := writer(t, in)
	data, _ := random(600 << 10)
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = stdin.Write(data)
		a.CloseStdin()
	}()
	first := make([]byte, 500<<10)
	if _, err := io.ReadFull(g.stdin, first); err != nil {
		t.Fatal(err)
	}
	<-written
	<-time.After(lateWriter + 200*time.Millisecond) // stdin stays open meanwhile
	rest, err := io.ReadAll(g.stdin)
	if err != nil || !bytes.Equal(slices.Concat(first, rest), data) {
		t.Errorf("%d bytes of %d came, %v", len(first)+len(rest), len(data), err)
	}
}

func TestCloseStdinBeforeBegin(t *testing.T) {
	in := makeFifo(t)
	a, err := Open(t.Context(), Config{Stdin: in, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	stdin := writer(t, in)
	say(t, stdin, "early")
	stdin.Close()
	a.CloseStdin()
	g := newGuest(t, a.IO())
	if err := a.Begin(t.Context(), g.process, nil); err != nil {
		t.Fatal(err)
	}
	hearEnd(t, g.stdin, "early")
	a.Close(virtcontainers.Exit{})
}

// A process that has closed its stdin breaks the pipe of who writes to it.
func TestStdinThatNobodyReads(t *testing.T) {
	in := makeFifo(t)
	_, g, _ := attached(t, Config{Stdin: in})
	stdin := writer(t, in)
	g.stdin.Close()
	for {
		if _, err := stdin.WriteString("unread"); err != nil {
			if !isEnd(err) {
				t.Error(err)
			}
			return
		}
	}
}

func TestStdinFromAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(path, []byte("all of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, g, _ := attached(t, Config{Stdin: path})
	hearEnd(t, g.stdin, "all of it")
}

func TestFiles(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "new", "log")
	a, g, _ := attached(t, Config{Stdout: "file://" + path, Stderr: "file://" + path})
	say(t, g.stdout, "output ")
	g.stdout.Close()
	g.stderr.Close()
	a.Close(virtcontainers.Exit{})
	// It is appended to, by its path as well.
	a, g, _ = attached(t, Config{Stdout: path, Stderr: path})
	say(t, g.stderr, "errors")
	g.stdout.Close()
	g.stderr.Close()
	a.Close(virtcontainers.Exit{})
	if got, err := os.ReadFile(path); err != nil || string(got) != "output errors" {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

// A full disk loses output, not the process.
func TestFullDisk(t *testing.T) {
	a, g, logged := attached(t, Config{Stdout: "/dev/full"})
	say(t, g.stdout, "one")
	say(t, g.stdout, "two")
	g.stdout.Close()
	a.Close(virtcontainers.Exit{})
	if strings.Count(logged.String(), "no space left") != 1 {
		t.Error(logged)
	}
}

// The process ends while much of what it has written is on its way.
func TestFlood(t *testing.T) {
	data, want := random(64 << 20)
	in, out := makeFifo(t), makeFifo(t)
	a, g, logged := attached(t, Config{Stdin: in, Stdout: out})
	stdin, stdout := writer(t, in), reader(t, out)
	var working sync.WaitGroup
	working.Go(func() {
		_, _ = stdin.Write(data)
		stdin.Close()
		a.CloseStdin()
	})
	working.Go(func() { // the process is cat
		_, _ = io.Copy(g.stdout, g.stdin)
		g.stdout.Close()
		a.Close(virtcontainers.Exit{})
	})
	hash := sha256.New()
	n, err := io.Copy(hash, stdout)
	working.Wait()
	if err != nil || n != int64(len(data)) || [32]byte(hash.Sum(nil)) != want {
		t.Errorf("%d bytes of %d came, or others, %v; log: %s", n, len(data), err, logged)
	}
}

// writingConn is a connection that writes itself, as the vsock device's do.
type writingConn struct{ net.Conn }

func (c writingConn) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(w, struct{ io.Reader }{c.Conn}, make([]byte, 16<<10))
}

func TestConnectionThatWritesItself(t *testing.T) {
	out := makeFifo(t)
	config := Config{Stdout: out, Log: slog.New(slog.DiscardHandler)}
	a, err := open(t.Context(), config, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, a.IO())
	g.process.Streams.Stdout = writingConn{g.process.Streams.Stdout}
	if err := a.Begin(context.Background(), g.process, nil); err != nil {
		t.Fatal(err)
	}
	stdout := reader(t, out)
	data, _ := random(3 << 20)
	go func() { _, _ = g.stdout.Write(data) }() // and no end
	done := closing(a)
	got, err := io.ReadAll(stdout)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d came, %v", len(got), len(data), err)
	}
	<-done
}
