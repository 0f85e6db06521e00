package notify

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A process that watches files is looked for once, as long as it does.
func TestWatchersAreRemembered(t *testing.T) {
	proc := t.TempDir()
	add := func(pid, target string) string {
		t.Helper()
		fds := filepath.Join(proc, pid, "fd")
		link := filepath.Join(fds, "3")
		if err := errors.Join(os.MkdirAll(fds, 0o700), os.Symlink(target, link)); err != nil {
			t.Fatal(err)
		}
		return link
	}
	remove := func(path string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	add("1000001", "/dev/null")
	w := &watchers{proc: proc}
	if w.any() {
		t.Error("nobody watches")
	}
	first := add("1000002", "anon_inode:inotify")
	if !w.any() || w.last != first {
		t.Errorf("%q watches, want %q", w.last, first)
	}
	add("1000000", "anon_inode:[fanotify]")
	if !w.any() || w.last != first {
		t.Errorf("%q was looked for, though %q watches", w.last, first)
	}
	remove(first)
	if !w.any() || w.last == first {
		t.Error("another that watches is not found")
	}
	remove(filepath.Join(proc, "1000000"))
	if w.any() {
		t.Error("nobody watches any more")
	}
}
