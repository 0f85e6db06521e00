package logfile

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for range 2 { // again: it is appended to
		file, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		file.max = 1000
		for range 100 {
			if _, err := file.Write([]byte(strings.Repeat("x", 99) + "\n")); err != nil {
				t.Fatal(err)
			}
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 2 {
		t.Errorf("files %v, %v", entries, err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || info.Size() != 1000 || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", entry.Name(), info, err)
		}
	}
}

func TestLongEntry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	file, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if n, err := file.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil || n != 1<<20 {
		t.Errorf("%d, %v", n, err)
	}
	if text, err := os.ReadFile(path); err != nil || len(text) > maxEntry+10 || text[len(text)-1] != '\n' {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		log := slog.New(Limit(slog.NewTextHandler(&text, nil)))
		for i := range 10 * burst {
			log.With("container", i).Info("again")
		}
		log.Info("something else")
		if got := strings.Count(text.String(), "again"); got != burst {
			t.Errorf("%d of the same, want %d", got, burst)
		}
		if !strings.Contains(text.String(), "something else") {
			t.Error("another one is lost")
		}
		<-time.After(interval) // of the bubble: at once
		text.Reset()
		log.Info("again")
		log.Info("again")
		if got := text.String(); strings.Count(got, "again") != 1 || !strings.Contains(got, "left_out=900") {
			t.Errorf("after a while: %s", got)
		}
	})
}

func TestKinds(t *testing.T) {
	r := &rates{kinds: make(map[string]*rate)}
	for i := range 3 * maxKinds {
		if ok, _ := r.take(strings.Repeat("x", i), time.Unix(0, 0)); !ok || len(r.kinds) > maxKinds {
			t.Fatalf("kind %d: %v, %d kinds", i, ok, len(r.kinds))
		}
	}
}
