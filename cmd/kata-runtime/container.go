package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

// openContainer finds the container that a command names.
func openContainer(c *cli.Context) (*store.Entry, store.State, error) {
	id, err := containerID(c)
	if err != nil {
		return nil, store.State{}, err
	}
	return openContainerID(c, id)
}

func openContainerID(c *cli.Context, id string) (*store.Entry, store.State, error) {
	entry, err := lookup(c.String("root"), id)
	if err != nil {
		return nil, store.State{}, err
	}
	state, err := currentState(entry)
	return entry, state, err
}

// currentState is the recorded state, corrected by who still lives: without the
// supervisor, who records it, there is no machine, and without the stand-in,
// whose pid is all that callers know of the container, its process is ended.
func currentState(entry *store.Entry) (store.State, error) {
	state, err := recordedState(entry)
	if err == nil && lacksStandIn(state) {
		// An end that the supervisor knew of is recorded before the stand-in
		// ends, but maybe not before the state was read.
		state, err = recordedState(entry)
	}
	if err != nil {
		return store.State{}, err
	}
	if state.Status != virtcontainers.StatusStopped && !store.Alive(state.SupervisorPID, state.SupervisorStartTime) || lacksStandIn(state) {
		state.Status, state.ExitCode = virtcontainers.StatusStopped, 128+int(syscall.SIGKILL)
	}
	return state, nil
}

// recordedState is the state of a container that was not deleted.
func recordedState(entry *store.Entry) (store.State, error) {
	state, err := entry.Load()
	if err != nil {
		return store.State{}, err
	}
	if state.Deleted { // only its pod is still there
		return store.State{}, fmt.Errorf("%w: %s", virtcontainers.ErrNotFound, entry.ID())
	}
	return state, nil
}

// lacksStandIn tells whether the container's process is to be there and its
// stand-in is not. While the container is created, the creation sees to it.
func lacksStandIn(state store.State) bool {
	switch state.Status {
	case virtcontainers.StatusCreated, virtcontainers.StatusRunning, virtcontainers.StatusPaused:
		return state.StandInPID > 0 && !store.Alive(state.StandInPID, state.StandInStartTime)
	default:
		return false
	}
}

// connect reaches the supervisor of a container's pod. Without its pod's entry,
// which goes last, the supervisor is gone too.
func connect(ctx context.Context, root string, state store.State) (*supervisor.Client, error) {
	if state.SandboxID == "" {
		return nil, errors.New("the container's creation has not got further than its id")
	}
	entry, err := lookup(root, state.SandboxID)
	if errors.Is(err, virtcontainers.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", supervisor.ErrGone, err)
	}
	if err != nil {
		return nil, err
	}
	return supervisor.Connect(ctx, entry)
}

// inCallersWords replaces an error that says that the supervisor is gone, of
// which callers know nothing, by what that means for the container. Callers
// search for the text of either.
func inCallersWords(entry *store.Entry, err error) error {
	if !errors.Is(err, supervisor.ErrGone) {
		return err
	}
	if _, stateErr := currentState(entry); errors.Is(stateErr, virtcontainers.ErrNotFound) {
		return &endedError{kind: stateErr, cause: err}
	}
	return &endedError{kind: virtcontainers.ErrNotRunning, cause: err}
}

// endedError says what the end of a supervisor means, and how it showed.
type endedError struct{ kind, cause error }

func (e *endedError) Error() string {
	if errors.Is(e.cause, fs.ErrNotExist) {
		// Callers take "no such file or directory" for a program that the
		// container does not have.
		return fmt.Sprintf("%v: %v", e.kind, supervisor.ErrGone)
	}
	return fmt.Sprintf("%v: %v", e.kind, e.cause)
}
func (e *endedError) Unwrap() []error { return []error{e.kind, e.cause} }

// withSupervisor runs a command's one call on the container that it names.
func withSupervisor(c *cli.Context, id string, call func(context.Context, *supervisor.Client, store.State) error) error {
	entry, state, err := openContainerID(c, id)
	if err != nil {
		return err
	}
	if state.Status == virtcontainers.StatusStopped {
		return virtcontainers.ErrNotRunning
	}
	client, err := connect(c.Context, c.String("root"), state)
	if err != nil {
		return inCallersWords(entry, err)
	}
	defer client.Close()
	return inCallersWords(entry, call(c.Context, client, state))
}
