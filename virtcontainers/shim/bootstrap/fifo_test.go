package bootstrap

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/logfile"
)

func makeFIFO(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// containerd's end: it is open for writing too.
func readFIFO(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func line(t *testing.T, reader *bufio.Reader) string {
	t.Helper()
	text, err := reader.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A log outlives its readers: nobody is waited for, and who comes back reads on.
func TestLogOutlivesReaders(t *testing.T) {
	path := makeFIFO(t)
	log, err := openFIFO(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	io.WriteString(log, "before there was a reader\n")
	first := readFIFO(t, path)
	if got := line(t, bufio.NewReader(first)); got != "before there was a reader\n" {
		t.Errorf("%q", got)
	}
	first.Close()
	entry := strings.Repeat("x", 1000) + "\n"
	for range 1000 { // more than the pipe holds
		if n, err := io.WriteString(log, entry); n != len(entry) || err != nil {
			t.Fatalf("without a reader: %d, %v", n, err)
		}
	}
	second := bufio.NewReader(readFIFO(t, path))
	kept := 0
	for second.Buffered() > 0 || kept == 0 {
		if got := line(t, second); got != entry {
			t.Fatalf("entry %d: %q", kept, got)
		}
		kept++
		if kept >= 60 { // what a pipe of 64 KiB holds at least
			break
		}
	}
	io.WriteString(log, "after\n")
	for {
		got := line(t, second)
		if strings.Contains(got, "no room") {
			if !regexp.MustCompile(` entries=9\d\d\n`).MatchString(got) {
				t.Errorf("%q", got)
			}
			break
		}
		if got != entry {
			t.Fatalf("%q", got)
		}
	}
	if got := line(t, second); got != "after\n" {
		t.Errorf("%q", got)
	}
}

// A long entry that is cut off does not run into the next.
func TestLogCutsLongEntries(t *testing.T) {
	path := makeFIFO(t)
	log, err := openFIFO(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	io.WriteString(log, strings.Repeat("y", 1<<20)+"\n")
	reader := bufio.NewReader(readFIFO(t, path))
	reader.Peek(1)
	n, _ := reader.Read(make([]byte, 16<<10))
	if n == 0 {
		t.Fatal("nothing was written")
	}
	io.WriteString(log, "next\n")
	for {
		got := line(t, reader)
		if strings.Contains(got, "next") {
			if got != "next\n" {
				t.Errorf("%q", got)
			}
			return
		}
	}
}

func TestLogForm(t *testing.T) {
	path := makeFIFO(t)
	fifo, err := openFIFO(path)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.close()
	log := slog.New(slog.NewTextHandler(fifo, &slog.HandlerOptions{ReplaceAttr: logfile.Logrus}))
	log.Warn("it is so", "id", "one")
	got := line(t, bufio.NewReader(readFIFO(t, path)))
	if !regexp.MustCompile(`^time=\d{4}-\d\d-\d\dT[\d:]+(Z|[+-]\d\d:\d\d) level=warn msg="it is so" id=one\n$`).MatchString(got) {
		t.Errorf("%q", got)
	}
}

func TestLogIsAFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openFIFO(path); err == nil {
		t.Error("a file is taken for a FIFO")
	}
}
