package standin

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// pipe returns both ends of a pipe, closed at the test's end.
func pipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); writer.Close() })
	return reader, writer
}

// A caller may give one file as output and error stream: the container's two
// streams and the caller itself then share its offset.
func TestCopyToAFileThatOthersWriteTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "output")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader, writer := pipe(t)
	done := make(chan struct{})
	var passed flow
	go func() {
		defer close(done)
		copyStream(int(file.Fd()), int(reader.Fd()), &passed)
	}()
	want := ""
	for _, text := range []string{"one ", "two ", "three "} {
		// The copy now waits for the pipe, or will.
		if _, err := file.WriteString("caller "); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.WriteString(text); err != nil {
			t.Fatal(err)
		}
		want += "caller " + text
	}
	writer.Close()
	<-done
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || strings.Count(string(got), "caller ") != 3 || passed.passed.Load() != uint64(len("one two three ")) {
		t.Errorf("the file holds %q, %d bytes passed; something was overwritten", got, passed.passed.Load())
	}
}

func TestCopyFromPipeToPipe(t *testing.T) {
	fromReader, fromWriter := pipe(t)
	toReader, toWriter := pipe(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyStream(int(toWriter.Fd()), int(fromReader.Fd()), &flow{})
		toWriter.Close()
	}()
	text := strings.Repeat("0123456789", 30000) // more than a pipe holds
	go func() {
		_, _ = fromWriter.WriteString(text)
		fromWriter.Close()
	}()
	got := make([]byte, 0, len(text))
	buffer := make([]byte, 10000)
	for {
		n, err := toReader.Read(buffer)
		got = append(got, buffer[:n]...)
		if err != nil {
			break
		}
	}
	<-done
	if string(got) != text {
		t.Errorf("%d bytes went in and %d came out, or others", len(text), len(got))
	}
}

// socketPair returns both ends of a stream socket, closed at the test's end.
func socketPair(t testing.TB) (one, other *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	one, other = os.NewFile(uintptr(fds[0]), "one"), os.NewFile(uintptr(fds[1]), "other")
	t.Cleanup(func() { one.Close(); other.Close() })
	return one, other
}

// Much and little take turns, with a reader who is late and one who is not.
func TestCopyFromSocketToPipe(t *testing.T) {
	guest, from := socketPair(t)
	reader, writer := pipe(t)
	var passed flow
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyStream(int(writer.Fd()), int(from.Fd()), &passed)
		writer.Close()
	}()
	sum := sha256.New()
	sent := 0
	written := make(chan struct{})
	go func() {
		defer close(written)
		defer guest.Close()
		piece := make([]byte, 300<<10)
		for i := range 400 {
			size := 1 + i%7
			if i%50 < 10 {
				size = len(piece) - i
			}
			for j := range piece[:size] {
				piece[j] = byte(i + j)
			}
			n, err := io.MultiWriter(sum, guest).Write(piece[:size])
			sent += n
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	got := sha256.New()
	n, err := io.CopyBuffer(got, struct{ io.Reader }{reader}, make([]byte, 10000))
	if err != nil {
		t.Error(err)
	}
	<-done
	<-written
	if size, err := unix.FcntlInt(reader.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || size != pipeSize {
		t.Errorf("the pipe holds %d bytes, want %d, %v", size, pipeSize, err)
	}
	if !bytes.Equal(got.Sum(nil), sum.Sum(nil)) || n != int64(sent) || passed.passed.Load() != uint64(n) || passed.busy.Load() {
		t.Errorf("%d bytes came of %d, or others; %d were counted", n, sent, passed.passed.Load())
	}
}

// Input that is much comes in larger pieces than the caller's pipe has held at first.
func TestCopyFromPipeToSocket(t *testing.T) {
	reader, writer := pipe(t)
	guest, to := socketPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyStream(int(to.Fd()), int(reader.Fd()), &flow{})
		to.Close()
	}()
	text := strings.Repeat("0123456789", 200000)
	go func() {
		_, _ = writer.WriteString(text)
		writer.Close()
	}()
	got, err := io.ReadAll(guest)
	if err != nil || string(got) != text {
		t.Errorf("%d bytes of %d came, or others, %v", len(got), len(text), err)
	}
	<-done
	if size, err := unix.FcntlInt(reader.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || size != pipeSize {
		t.Errorf("the pipe holds %d bytes, want %d, %v", size, pipeSize, err)
	}
}

// Each spliced piece takes a place of the pipe, of which there are few: lines that come
// one by one after much all find room there before anybody reads them.
func TestLinesAfterMuch(t *testing.T) {
	guest, from := socketPair(t)
	reader, writer := pipe(t)
	var passed flow
	go copyStream(int(writer.Fd()), int(from.Fd()), &passed)
	const much, lines = 600 << 10, 200
	go func() { _, _ = guest.Write(make([]byte, much)) }()
	if _, err := io.ReadFull(reader, make([]byte, much)); err != nil {
		t.Fatal(err)
	}
	for i := range lines {
		if _, err := guest.Write([]byte{'\n'}); err != nil {
			t.Fatal(err)
		}
		for passed.passed.Load() < uint64(much+i+1) { // the test's own timeout is the judge
			runtime.Gosched()
		}
	}
}

// What was copied into a pipe can be read while the copy waits for more.
func TestCopyFromATerminalDoesNotHoldThePipe(t *testing.T) {
	terminal, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	reader, writer := pipe(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyStream(int(writer.Fd()), int(slave.Fd()), &flow{})
	}()
	for _, line := range []string{"one\n", "two\n", "three\n"} {
		if _, err := terminal.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100)
		n, err := reader.Read(got) // the test's own timeout is the judge
		if err != nil || string(got[:n]) != line {
			t.Errorf("read %q, %v; want %q", got[:n], err, line)
		}
	}
	terminal.Close()
	<-done
}
