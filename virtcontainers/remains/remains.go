// Package remains removes what a process that owned a pod (a supervisor, or
// containerd's shim) has left on the host when it ended without doing so: it was
// killed, or nobody could reach it any more. The kernel has ended its processes
// and mounts, or is about to; what it does not undo is found by the state of
// package store: control groups, what was attached in the pod's network
// namespace, state directories, a turn to boot.
//
// Everything here can be repeated, and be done by several at once.
package remains

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/turn"
)

// timeout bounds the wait for the processes of a pod whose owner has died; the
// kernel ends them. The caller's context may end before.
const timeout = 20 * time.Second

// Await waits for the end of a container's supervisor, which serves nobody any
// more, and then does what Remove does.
func Await(ctx context.Context, states *store.Store, entry *store.Entry, state store.State) (removed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := store.AwaitExit(ctx, state.SupervisorPID); err != nil {
		return false, err
	}
	return Remove(ctx, states, entry, state)
}

// Remove removes what is left of a container whose supervisor has died, and of
// its pod with the last container. state is the container's last one. removed
// tells that nobody else has done it meanwhile.
func Remove(ctx context.Context, states *store.Store, entry *store.Entry, state store.State) (removed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if store.Alive(state.StandInPID, state.StandInStartTime) {
		if err := store.AwaitExit(ctx, state.StandInPID); err != nil {
			return false, err
		}
	}
	// The pod's other processes were killed with the supervisor; what is still
	// ending is waited for here.
	group, err := state.Cgroup.Open()
	if err != nil {
		return false, err
	}
	if err := group.Remove(ctx); err != nil {
		return false, err
	}
	if err := restoreNetwork(states, state.SandboxID); err != nil {
		return false, err
	}
	_, err = entry.Load()
	there := !errors.Is(err, virtcontainers.ErrNotFound) // nobody else has removed it
	err = errors.Join(entry.Remove(), removePod(ctx, states, state.SandboxID))
	// Not its own alone, and no reason to keep the container: the next boot does it too.
	_ = turn.Sweep(ctx, turn.DefaultDir)
	return there && err == nil, err
}

// Clear removes what a supervisor that has died left under an id, which is free
// then. While the supervisor lives, the id is taken: virtcontainers.ErrExists.
func Clear(ctx context.Context, states *store.Store, id string) error {
	entry, err := states.Lookup(id)
	if errors.Is(err, virtcontainers.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	state, err := entry.Load()
	switch {
	case errors.Is(err, virtcontainers.ErrNotFound):
		return nil
	case errors.Is(err, store.ErrDamaged):
		return entry.Remove()
	case err != nil:
		return err
	case store.Alive(state.SupervisorPID, state.SupervisorStartTime):
		return fmt.Errorf("%w: %s", virtcontainers.ErrExists, id)
	}
	_, err = Remove(ctx, states, entry, state)
	return err
}

// restoreNetwork removes from the network namespace of a pod whose supervisor
// has died what the kernel does not: a namespace without a path has died too.
func restoreNetwork(states *store.Store, sandbox string) error {
	entry, err := states.Lookup(sandbox)
	if err != nil {
		return nil //nolint:nilerr // it was removed, with its network
	}
	spec, err := entry.Config()
	if err != nil {
		return nil //nolint:nilerr // its creation did not get that far
	}
	path := oci.NetworkPath(spec)
	if path == "" {
		return nil
	}
	return network.Restore(path)
}

// removePod removes what is left of a pod whose supervisor has died, once
// neither its sandbox nor another container of it is known.
func removePod(ctx context.Context, states *store.Store, sandbox string) error {
	entries, err := states.List()
	if err != nil {
		return err
	}
	var rest *store.Entry
	var left store.State
	for _, entry := range entries {
		state, err := entry.Load()
		switch {
		case err != nil || state.SandboxID != sandbox:
		case state.ID == sandbox && state.Deleted:
			rest, left = entry, state
		default:
			return nil
		}
	}
	if rest == nil {
		return nil
	}
	group, err := left.Cgroup.Open()
	if err != nil {
		return err
	}
	return errors.Join(group.Remove(ctx), rest.Remove())
}
