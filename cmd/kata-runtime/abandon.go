package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/remains"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

// abandonTimeout bounds how long a failed command waits until its pod is gone.
const abandonTimeout = 20 * time.Second

// abandon undoes the creation and waits until nothing of it is left; then
// poststop hooks are due, if others were before.
func (n *creation) abandon(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	defer n.pool.refill(ctx)
	gone, err := n.awaitAbandoned(ctx)
	if n.standIn != nil {
		_ = n.standIn.Process.Kill() // it ends of itself when its channel does
		<-n.standInEnd()             // its exit code says nothing here
	}
	if gone {
		err = errors.Join(err, n.removeLeft(ctx))
	}
	if n.hooks != nil {
		n.hooks.Poststop(ctx)
	}
	return err
}

// awaitAbandoned tells also whether the supervisor has ended, or is about to.
func (n *creation) awaitAbandoned(ctx context.Context) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, abandonTimeout)
	defer cancel()
	if n.created && n.sandbox != n.id {
		// The pod lives on: its supervisor's end does not tell that this
		// container is gone.
		_, err = n.client.Delete(ctx, n.id, true)
		gone = errors.Is(err, supervisor.ErrGone)
		if gone || errors.Is(err, virtcontainers.ErrNotFound) {
			err = nil // removeLeft sees to it, or another command was faster
		}
	}
	abandonErr := n.client.Abandon(ctx)
	if n.sandbox == n.id {
		gone = abandonErr == nil
	}
	return gone, errors.Join(err, abandonErr)
}

// removeLeft removes what a supervisor that has died, or is about to, has left
// of the creation.
func (n *creation) removeLeft(ctx context.Context) error {
	_, err := n.removeIfLeft(ctx)
	if err != nil {
		return fmt.Errorf("remove what the supervisor left of the container: %w", err)
	}
	return nil
}

// removeIfLeft tells also whether there was something left. Another command's
// container of the id, which may be why a creation has failed, is not touched.
func (n *creation) removeIfLeft(ctx context.Context) (removed bool, err error) {
	if n.supervisor.pid == 0 {
		return false, nil // it was not started; or the container is not this command's
	}
	entry, err := lookup(n.root, n.id)
	var state store.State
	if err == nil {
		state, err = entry.Load()
	}
	switch {
	case errors.Is(err, virtcontainers.ErrNotFound), errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrVersion):
		return false, nil
	case err != nil:
		return false, err
	case state.Deleted, !n.made(state): // with Deleted, the pod's other containers need it
		return false, nil
	case store.Alive(state.SupervisorPID, state.SupervisorStartTime):
		return removeRemains(ctx, n.root, entry, state, remains.Await)
	default:
		return removeRemains(ctx, n.root, entry, state, remains.Remove)
	}
}

// made tells whether a state is that of this creation, whose supervisor is gone.
func (n *creation) made(state store.State) bool {
	owner := process{pid: state.SupervisorPID, start: state.SupervisorStartTime}
	switch {
	case owner != n.supervisor:
		return false
	case n.sandbox == n.id:
		return true // nobody else makes a container of that id in this pod
	case state.StandInPID == 0:
		return true // reserved and no more: it can become nobody's container
	default:
		return n.standIn != nil && state.StandInPID == n.standIn.Process.Pid && state.StandInStartTime == n.standInStart
	}
}
