package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/virtcontainers"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func reserve(t *testing.T, s *Store, id string) *Entry {
	t.Helper()
	entry, err := s.Reserve(id)
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

func TestLifeOfAnEntry(t *testing.T) {
	s := open(t)
	before := time.Now()
	entry := reserve(t, s, "c1")
	state, err := entry.Load()
	if err != nil {
		t.Fatal(err)
	}
	if state.ID != "c1" || state.Status != virtcontainers.StatusCreating || state.Version != StateVersion || state.Created.Before(before.Truncate(0)) {
		t.Errorf("first state = %+v", state)
	}

	want := State{
		OCIVersion: "1.3.0", ID: "c1", Bundle: "/b", Rootfs: "/b/rootfs", Status: virtcontainers.StatusRunning,
		StandInPID: 12, StandInStartTime: 34, Created: state.Created, Annotations: map[string]string{"a": "b"},
		SandboxID: "c1", SupervisorPID: 56, SupervisorStartTime: 78, ExitCode: 9, Owner: "root",
	}
	if err := entry.Save(want); err != nil {
		t.Fatal(err)
	}
	want.Version = StateVersion
	found, err := s.Lookup("c1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := found.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	if err := found.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(entry.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	if err := entry.Remove(); err != nil {
		t.Errorf("second Remove: %v", err)
	}
	if _, err := s.Lookup("c1"); !errors.Is(err, virtcontainers.ErrNotFound) || !strings.Contains(err.Error(), "container does not exist") {
		t.Errorf("Lookup after Remove: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, root := range []string{"", "relative", "/", "/tmp/.."} {
		if _, err := Open(root); err == nil {
			t.Errorf("Open(%q) succeeded", root)
		}
	}
}

func TestReserveTaken(t *testing.T) {
	s := open(t)
	reserve(t, s, "c1")
	_, err := s.Reserve("c1")
	if !errors.Is(err, virtcontainers.ErrExists) || !strings.Contains(err.Error(), "container with given ID already exists") {
		t.Errorf("error = %v", err)
	}
}

func TestInvalidID(t *testing.T) {
	s := open(t)
	for _, id := range []string{"", ".", "..", "a/b", "/", "../x", "a\x00b", strings.Repeat("x", 256)} {
		if _, err := s.Reserve(id); !errors.Is(err, ErrInvalidID) {
			t.Errorf("Reserve(%q): %v", id, err)
		}
		if _, err := s.Lookup(id); !errors.Is(err, ErrInvalidID) {
			t.Errorf("Lookup(%q): %v", id, err)
		}
	}
}

func TestForeignFiles(t *testing.T) {
	s := open(t)
	for _, dir := range []string{"ours", "theirs", "later"} {
		if err := os.MkdirAll(filepath.Join(s.Root(), dir), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"theirs/state.json", "ours/state.json", "afile"} {
		if err := os.WriteFile(filepath.Join(s.Root(), file), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entry := reserve(t, s, "ours")
	entries, err := s.List()
	if err != nil || len(entries) != 1 || entries[0].ID() != "ours" {
		t.Errorf("List() = %v, %v", entries, err)
	}
	if _, err := s.Lookup("theirs"); !errors.Is(err, virtcontainers.ErrNotFound) {
		t.Errorf("Lookup(theirs): %v", err)
	}
	if _, err := s.Lookup("afile"); !errors.Is(err, virtcontainers.ErrNotFound) {
		t.Errorf("Lookup(afile): %v", err)
	}
	if _, err := s.Reserve("afile"); err == nil {
		t.Error("Reserve of a name that is a file succeeded")
	}
	if err := entry.Remove(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(s.Root(), "ours"))
	if err != nil || len(left) != 1 || left[0].Name() != "state.json" {
		t.Errorf("left of a shared directory: %v, %v", left, err)
	}
}

func TestRemoveTakesOurFilesAlone(t *testing.T) {
	s := open(t)
	entry := reserve(t, s, "c")
	if err := os.WriteFile(entry.Path("config.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(entry.Path("share"), "mount"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := entry.Remove(); err == nil || !strings.Contains(err.Error(), "kata.share") {
		t.Fatalf("Remove with a directory that is not empty: %v", err)
	}
	if _, err := entry.Load(); err != nil {
		t.Errorf("after a failed Remove the container is unknown: %v", err)
	}
	if err := os.Remove(filepath.Join(entry.Path("share"), "mount")); err != nil {
		t.Fatal(err)
	}
	if err := entry.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(entry.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

func TestOldEntryLeavesNewIncarnationAlone(t *testing.T) {
	s := open(t)
	old := reserve(t, s, "c")
	if err := old.Remove(); err != nil {
		t.Fatal(err)
	}
	current := reserve(t, s, "c")
	if _, err := old.Load(); !errors.Is(err, virtcontainers.ErrNotFound) {
		t.Errorf("Load: %v", err)
	}
	if err := old.Save(State{Owner: "old"}); !errors.Is(err, virtcontainers.ErrNotFound) {
		t.Errorf("Save: %v", err)
	}
	if err := old.Update(func(*State) error { return nil }); !errors.Is(err, virtcontainers.ErrNotFound) {
		t.Errorf("Update: %v", err)
	}
	if err := old.Remove(); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if state, err := current.Load(); err != nil || state.Owner != "" {
		t.Errorf("current: %+v, %v", state, err)
	}
}

func TestDamagedAndNewerState(t *testing.T) {
	s := open(t)
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"empty":   {"", ErrDamaged},
		"torn":    {`{"version":1,"id":"x`, ErrDamaged},
		"type":    {`{"version":1,"incarnation":"x","id":3}`, ErrDamaged},
		"newer":   {`{"version":2,"incarnation":"x","id":[1]}`, ErrVersion},
		"garbage": {"\x00\x01", ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			first := reserve(t, s, name)
			if err := os.WriteFile(first.Path(stateName), []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			entry, err := s.Lookup(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := entry.Load(); !errors.Is(err, test.want) {
				t.Errorf("Load: %v", err)
			}
			if _, err := s.Reserve(name); !errors.Is(err, virtcontainers.ErrExists) {
				t.Errorf("Reserve: %v", err)
			}
			if entries, err := s.List(); err != nil || len(entries) != 1 {
				t.Errorf("List: %v, %v", entries, err)
			}
			if err := entry.Remove(); err != nil {
				t.Errorf("Remove: %v", err)
			}
		})
	}
}

func TestSaveRefusesAnotherID(t *testing.T) {
	entry := reserve(t, open(t), "c")
	if err := entry.Save(State{ID: "d"}); err == nil {
		t.Error("the state of another container was saved")
	}
}

func TestUpdateLosesNothing(t *testing.T) {
	s := open(t)
	entry := reserve(t, s, "c")
	const workers, rounds = 8, 25
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range rounds {
				if err := entry.Update(func(state *State) error { state.ExitCode++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if state, err := entry.Load(); err != nil || state.ExitCode != workers*rounds {
		t.Errorf("state = %+v, %v", state, err)
	}
	wrong := errors.New("wrong")
	if err := entry.Update(func(*State) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("Update: %v", err)
	}
}

// TestConcurrentReserve has many goroutines reserve and remove one id: at any
// time one of them at most has it.
func TestConcurrentReserve(t *testing.T) {
	s := open(t)
	var owners, won atomic.Int32
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 50 {
				entry, err := s.Reserve("c")
				if errors.Is(err, virtcontainers.ErrExists) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				won.Add(1)
				if owners.Add(1) != 1 {
					t.Error("two own the id at once")
				}
				if _, err := s.Lookup("c"); err != nil {
					t.Errorf("the owner's Lookup: %v", err)
				}
				if err := entry.Save(State{Status: virtcontainers.StatusRunning}); err != nil {
					t.Errorf("the owner's Save: %v", err)
				}
				owners.Add(-1)
				if err := entry.Remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// Readers see whole states or none.
	done := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			entry, err := s.Lookup("c")
			if err == nil {
				_, err = entry.Load()
			}
			if err != nil && !errors.Is(err, virtcontainers.ErrNotFound) {
				t.Errorf("reader: %v", err)
			}
			if _, err := s.List(); err != nil {
				t.Errorf("List: %v", err)
			}
		}
	})
	group.Wait()
	close(done)
	readers.Wait()
	if won.Load() == 0 {
		t.Error("nobody ever got the id")
	}
	if left, err := os.ReadDir(s.Root()); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestListOfMissingRoot(t *testing.T) {
	if entries, err := open(t).List(); err != nil || len(entries) != 0 {
		t.Errorf("List() = %v, %v", entries, err)
	}
}

func TestReserveSaysWhoHasTheID(t *testing.T) {
	state, err := reserve(t, open(t), "c1").Load()
	if err != nil {
		t.Fatal(err)
	}
	if state.SupervisorPID != os.Getpid() || !Alive(state.SupervisorPID, state.SupervisorStartTime) {
		t.Errorf("supervisor %d, started at %d", state.SupervisorPID, state.SupervisorStartTime)
	}
}

func TestListHasWhatCannotBeRead(t *testing.T) {
	s := open(t)
	unreadable := reserve(t, s, "a")
	reserve(t, s, "b")
	if err := errors.Join(os.Remove(unreadable.Path(stateName)), os.Mkdir(unreadable.Path(stateName), 0o700)); err != nil {
		t.Fatal(err)
	}
	entries, err := s.List()
	if err != nil || len(entries) != 2 || entries[0].ID() != "a" || entries[1].ID() != "b" {
		t.Fatalf("List() = %v, %v", entries, err)
	}
	if _, err := entries[0].Load(); err == nil || errors.Is(err, virtcontainers.ErrNotFound) {
		t.Errorf("Load() = %v", err)
	}
}
