package supervisor

import (
	"errors"
	"os"
	"testing"

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
