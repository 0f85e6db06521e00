package supervisor

import (
	"errors"
	"os"
	"strings"
	"testing"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/store"
)

// A pid that is another process's by now is not moved.
func TestPlaceStandIn(t *testing.T) {
	pid := os.Getpid()
	start, err := store.StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	var moved []int
	move := func(pid int) error {
		moved = append(moved, pid)
		return nil
	}
	if err := placeStandIn(&cgroup.Group{}, pid, start, move); err != nil || len(moved) != 1 || moved[0] != pid {
		t.Errorf("moved %v, %v", moved, err)
	}
	for _, earlier := range []uint64{0, start - 1} {
		if err := placeStandIn(&cgroup.Group{}, pid, earlier, move); !errors.Is(err, errStandInGone) || len(moved) != 1 {
			t.Errorf("start time %d: moved %v, %v", earlier, moved, err)
		}
	}
	if err := placeStandIn(nil, pid, 0, move); err != nil || len(moved) != 1 {
		t.Errorf("without a group: moved %v, %v", moved, err)
	}
}

// Why a machine has ended is recorded with the end of its containers, as much of it as is
// of use.
func TestRecordOfAMachinesEnd(t *testing.T) {
	states, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for id, test := range map[string]struct {
		reason error
		want   string
	}{
		"by-itself": {nil, ""},
		"killed":    {errors.New("QEMU ended"), "QEMU ended"},
		"long":      {errors.New(strings.Repeat("x", 10*maxReason)), strings.Repeat("x", maxReason)},
	} {
		entry, err := states.Reserve(id)
		if err != nil {
			t.Fatal(err)
		}
		r := &record{entry: entry, state: store.State{Status: virtcontainers.StatusRunning}}
		if err := r.Record(virtcontainers.StatusStopped, &virtcontainers.Exit{Code: 137, Reason: test.reason}); err != nil {
			t.Fatal(err)
		}
		if state, err := entry.Load(); err != nil || state.Reason != test.want || state.ExitCode != 137 {
			t.Errorf("%s: %d, %.40q, %v", id, state.ExitCode, state.Reason, err)
		}
	}
}
