//go:build vm

package sockets

import (
	"errors"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"
)

// A pod's watches are its own user's: whatever another pod, or a service of root's, has
// taken leaves it all of them.
func TestWatchesAreCountedForThePodsUser(t *testing.T) {
	const hungry, other = 2_000_001_234, 2_000_001_235
	log := slog.New(slog.DiscardHandler)
	var all []*watcher
	defer func() {
		for _, w := range all {
			w.close()
		}
	}()
	for {
		w, err := newWatcher(log, hungry)
		if errors.Is(err, unix.EMFILE) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
		if len(all) > 1<<16 {
			t.Fatal("there is no bound")
		}
	}
	for _, user := range []int{other, 0} {
		w, err := newWatcher(log, user)
		if err != nil {
			t.Fatalf("user %d has none left after %d of another's: %v", user, len(all), err)
		}
		w.close()
	}
	if unix.Geteuid() != 0 {
		t.Errorf("the process is user %d", unix.Geteuid())
	}
}
