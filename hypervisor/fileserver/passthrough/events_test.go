package passthrough

import (
	"log/slog"
	"testing"
	"time"
)

// A guest that does not repeat what it is told has so much of it held, and no more.
func TestEventsThatWaitAreBounded(t *testing.T) {
	w := &watcher{log: slog.New(slog.DiscardHandler), warned: map[string]time.Time{}}
	w.queue.init()
	for range 2 * mostQueued {
		w.queue.add(w, queued{kind: moved, id: 1, name: "a", to: 1, toName: "b"})
	}
	if n := len(w.queue.list); n != mostQueued {
		t.Errorf("%d events wait, want %d", n, mostQueued)
	}
	if len(w.warned) != 1 {
		t.Error("nothing in the log tells of the others")
	}
}
