package stdio

import (
	"bytes"
	"crypto/sha256"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"kata-runtime/virtcontainers"
)

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
