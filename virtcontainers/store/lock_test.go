package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kata-runtime/virtcontainers"
)

func lock(t *testing.T, e *Entry) func() {
	t.Helper()
	unlock, err := e.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}

func TestLockExcludes(t *testing.T) {
	s := open(t)
	entry := reserve(t, s, "c")
	var inside atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 50 {
				unlock, err := entry.Lock(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				inside.Add(-1)
				unlock()
				unlock()
			}
		})
	}
	group.Wait()
}

func TestLockCancelled(t *testing.T) {
	entry := reserve(t, open(t), "c")
	unlock := lock(t, entry)
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	go func() {
		_, err := entry.Lock(ctx)
		failed <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("Lock: %v", err)
	}
	unlock()
	// The abandoned wait gives the lock back.
	lock(t, entry)()
}

func TestSavingWorksBesideALock(t *testing.T) {
	s := open(t)
	entry := reserve(t, s, "c")
	defer lock(t, entry)()
	other, err := s.Lookup("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Save(State{Status: virtcontainers.StatusStopped}); err != nil {
		t.Error(err)
	}
	if err := other.Remove(); err != nil {
		t.Error(err)
	}
}

func TestLockOfRemovedContainer(t *testing.T) {
	s := open(t)
	for name, again := range map[string]bool{"removed": false, "recreated": true} {
		t.Run(name, func(t *testing.T) {
			old := reserve(t, s, name)
			unlock := lock(t, old)
			waiting := make(chan error)
			go func() {
				_, err := old.Lock(context.Background())
				waiting <- err
			}()
			if err := old.Remove(); err != nil {
				t.Fatal(err)
			}
			if again {
				current := reserve(t, s, name)
				defer lock(t, current)()
			}
			unlock()
			if err := <-waiting; !errors.Is(err, virtcontainers.ErrNotFound) {
				t.Errorf("the waiting Lock: %v", err)
			}
			if _, err := old.Lock(context.Background()); !errors.Is(err, virtcontainers.ErrNotFound) {
				t.Errorf("a later Lock: %v", err)
			}
			if _, err := os.Lstat(old.Dir()); !again && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("directory: %v", err)
			}
		})
	}
}

func TestLockAfterInterruptedRemove(t *testing.T) {
	entry := reserve(t, open(t), "c")
	if err := os.Remove(entry.Path(lockName)); err != nil {
		t.Fatal(err)
	}
	lock(t, entry)()
	if err := entry.Remove(); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryThatIsLockedForLong(t *testing.T) {
	dir := t.TempDir()
	held, err := LockDirectory(t.Context(), dir, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	_, err = LockDirectory(t.Context(), dir, 10*time.Millisecond)
	if want := fmt.Sprintf("process %d (", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "not free after 10ms") {
		t.Errorf("error %v, want %q in it", err, want)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := LockDirectory(t.Context(), dir, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestDirectoryOfSomebodyElse(t *testing.T) {
	s := open(t)
	for name, spoil := range map[string]func(dir string) error{
		"writable": func(dir string) error { return os.Chmod(dir, 0o770) },
		"owner":    func(dir string) error { return os.Chown(dir, 4711, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("needs root, to give a directory away")
			}
			made := filepath.Join(s.Root(), name)
			if err := errors.Join(os.MkdirAll(made, 0o700), spoil(made)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Reserve(name); !errors.Is(err, ErrUnsafe) {
				t.Errorf("a container's directory: %v", err)
			}
			root, err := Open(made)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := root.Reserve("c"); !errors.Is(err, ErrUnsafe) {
				t.Errorf("the root: %v", err)
			}
			if _, err := root.List(); err != nil {
				t.Errorf("what is there can be seen: %v", err)
			}
		})
	}
	sticky := filepath.Join(s.Root(), "sticky") // as /tmp is
	if err := errors.Join(os.MkdirAll(sticky, 0o700), os.Chmod(sticky, os.ModeSticky|0o777)); err != nil {
		t.Fatal(err)
	}
	root, err := Open(sticky)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := root.Reserve("c"); err != nil {
		t.Error(err)
	}
}
