package stdio

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
)

// short is the patience where it is to end.
const short = 200 * time.Millisecond

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

// Nobody waits for a reader: one that comes after the process's end gets everything,
// and the end.
func TestLateReader(t *testing.T) {
	for _, text := range []string{"", "last words"} {
		out := makeFifo(t)
		a, g, logged := attachedFor(t, time.Hour, Config{Stdout: out})
		say(t, g.stdout, text)
		g.stdout.Close()
		a.Close(virtcontainers.Exit{})
		hearEnd(t, reader(t, out), text)
		a.Release()
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
	a.Close(virtcontainers.Exit{}) // nobody waits for the reader
	got, err := io.ReadAll(reader(t, out))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d came, %v", len(got), len(data), err)
	}
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
		a, g, logged := attachedFor(t, time.Hour, Config{Stdout: out})
		data, _ := random(size)
		go func() {
			_, _ = g.stdout.Write(data)
			g.stdout.Close()
		}()
		a.Close(virtcontainers.Exit{})
		if logged.String() != "" {
			t.Errorf("%d bytes: logged %q", size, logged)
		}
		a.Release()
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
