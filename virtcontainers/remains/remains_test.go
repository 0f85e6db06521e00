package remains

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/store"
)

// dead records a container of a supervisor that is no more.
func dead(t *testing.T, states *store.Store, id, sandbox string, deleted bool) (*store.Entry, store.State) {
	t.Helper()
	entry, err := states.Reserve(id)
	if err != nil {
		t.Fatal(err)
	}
	state := store.State{
		ID: id, SandboxID: sandbox, Status: virtcontainers.StatusRunning, Deleted: deleted,
		SupervisorPID: 1 << 22, SupervisorStartTime: 1, StandInPID: 1 << 22, StandInStartTime: 1,
	}
	if err := entry.Save(state); err != nil {
		t.Fatal(err)
	}
	return entry, state
}

func open(t *testing.T) *store.Store {
	t.Helper()
	states, err := store.Open(t.TempDir() + "/state")
	if err != nil {
		t.Fatal(err)
	}
	return states
}

func known(t *testing.T, states *store.Store) (ids []string) {
	t.Helper()
	entries, err := states.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		ids = append(ids, entry.ID())
	}
	return ids
}

func TestRemoveTwice(t *testing.T) {
	states := open(t)
	entry, state := dead(t, states, "one", "one", false)
	for _, want := range []bool{true, false} {
		removed, err := Remove(t.Context(), states, entry, state)
		if removed != want || err != nil {
			t.Fatalf("removed %v, %v, want %v", removed, err, want)
		}
	}
	if ids := known(t, states); len(ids) != 0 {
		t.Errorf("left: %v", ids)
	}
}

// The state of a sandbox that was deleted before its containers goes with the
// last of them.
func TestPodGoesWithItsLastContainer(t *testing.T) {
	states := open(t)
	dead(t, states, "pod", "pod", true)
	dead(t, states, "other", "other", true) // of another pod, whose containers are gone
	first, firstState := dead(t, states, "first", "pod", false)
	second, secondState := dead(t, states, "second", "pod", false)
	if _, err := Remove(t.Context(), states, first, firstState); err != nil {
		t.Fatal(err)
	}
	if ids := known(t, states); len(ids) != 3 {
		t.Errorf("with a container left there are %v, want also its pod", ids)
	}
	if _, err := Remove(t.Context(), states, second, secondState); err != nil {
		t.Fatal(err)
	}
	if ids := known(t, states); len(ids) != 1 || ids[0] != "other" {
		t.Errorf("left: %v, want what is no remains of this pod", ids)
	}
}

func TestAwaitEndsWithContext(t *testing.T) {
	states := open(t)
	entry, state := dead(t, states, "one", "one", false)
	process := exec.Command("sleep", "1000")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		process.Process.Kill()
		process.Wait()
	}()
	state.SupervisorPID = process.Process.Pid
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Await(ctx, states, entry, state); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("waited for a process that goes on: %v", err)
	}
	if ids := known(t, states); len(ids) != 1 {
		t.Errorf("what a process has that goes on was removed: %v", ids)
	}
	process.Process.Kill()
	if removed, err := Await(t.Context(), states, entry, state); !removed || err != nil {
		t.Errorf("removed %v, %v", removed, err)
	}
}

func TestClear(t *testing.T) {
	states := open(t)
	if err := Clear(t.Context(), states, "one"); err != nil {
		t.Errorf("of an id that is free: %v", err)
	}
	entry, _ := dead(t, states, "one", "one", false)
	if err := Clear(t.Context(), states, "one"); err != nil {
		t.Error(err)
	}
	if ids := known(t, states); len(ids) != 0 {
		t.Errorf("left: %v", ids)
	}
	if _, err := states.Reserve("one"); err != nil { // by this process
		t.Fatal(err)
	}
	if err := Clear(t.Context(), states, "one"); !errors.Is(err, virtcontainers.ErrExists) {
		t.Errorf("of a living one: %v", err)
	}
	if err := os.WriteFile(entry.Path("json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Clear(t.Context(), states, "one"); err != nil {
		t.Errorf("of a damaged state: %v", err)
	}
	if ids := known(t, states); len(ids) != 0 {
		t.Errorf("left: %v", ids)
	}
}
