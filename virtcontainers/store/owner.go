package store

import (
	"context"
	"errors"
	"os"
	"time"

	"kata-runtime/virtcontainers/cgroup"
)

// cgroupTimeout bounds the wait for the last processes of a pod's control group,
// which is to be removed: killed ones, which release their memory.
const cgroupTimeout = 20 * time.Second

// ClaimPod notes that this process owns the pod of this id, to whose first
// container the entry belongs: whoever asks finds it, and whoever finds it dead
// cleans up.
func (e *Entry) ClaimPod(id string) error {
	start, err := StartTime(os.Getpid())
	if err != nil {
		return err
	}
	return e.Update(func(state *State) error {
		state.SandboxID, state.SupervisorPID, state.SupervisorStartTime = id, os.Getpid(), start
		return nil
	})
}

// EnterCgroup moves this process into the pod's control group before it starts
// others, which are born there. The group is noted first: whoever finds this
// process killed removes it. leave is never nil, and undoes it. A nil record is no
// group.
func (e *Entry) EnterCgroup(record *cgroup.Record) (leave func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	group, err := record.Open()
	if err != nil || group == nil {
		return nothing, err
	}
	if err := e.Update(func(state *State) error {
		state.Cgroup = record
		return nil
	}); err != nil {
		return nothing, err
	}
	membership, err := group.Join()
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, cgroupTimeout)
		defer cancel()
		return errors.Join(membership.Leave(), group.Remove(ctx))
	}, err
}
