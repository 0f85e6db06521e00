package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/lifecycle"
	"kata-runtime/virtcontainers/remains"
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

func startCommand() *cli.Command {
	return &cli.Command{
		Name:      "start",
		Usage:     "run the program of a created container",
		ArgsUsage: "ID",
		Action: func(c *cli.Context) error {
			entry, state, err := openContainer(c)
			if err != nil {
				return err
			}
			if state.Status != virtcontainers.StatusCreated {
				return fmt.Errorf("cannot start a container that is %s", state.Status)
			}
			hooks, err := keptHooks(entry, state, logger(c))
			if err != nil {
				return err
			}
			return start(c.Context, c.String("root"), entry, state, hooks)
		},
	}
}

// start runs a container's program. When a hook fails, nothing is left of the
// container.
func start(ctx context.Context, root string, entry *store.Entry, state store.State, hooks *lifecycle.Hooks) error {
	client, err := connect(ctx, root, state)
	if err != nil {
		return inCallersWords(entry, err)
	}
	defer client.Close()
	if _, err = client.Start(ctx, state.ID); err != nil {
		err = inCallersWords(entry, err)
		if !hooks.EndsContainer(err) {
			return err
		}
	} else if err = hooks.Poststart(ctx); err == nil {
		return nil
	}
	client.Close() // a supervisor that ends waits for its connections
	removed, deleteErr := deleteContainer(ctx, root, entry, state, true)
	if removed {
		hooks.Poststop(ctx)
	}
	if anotherWasFaster(deleteErr) {
		deleteErr = nil
	}
	return errors.Join(err, deleteErr)
}

// anotherWasFaster tells whether a deletion failed because another command had
// deleted the container.
func anotherWasFaster(err error) bool {
	return errors.Is(err, virtcontainers.ErrNotFound)
}

func killCommand() *cli.Command {
	return &cli.Command{
		Name:      "kill",
		Usage:     "send a signal to the container's init process",
		ArgsUsage: "ID [SIGNAL]",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "send it to all processes of the container"}},
		Action: func(c *cli.Context) error {
			if c.NArg() < 1 || c.NArg() > 2 {
				return fmt.Errorf("kill takes a container's id and a signal, not %d arguments", c.NArg())
			}
			// An empty signal is none given, as for runc.
			signal, err := parseSignal(cmp.Or(c.Args().Get(1), "TERM"))
			if err != nil {
				return err
			}
			entry, state, err := openContainerID(c, c.Args().First())
			if err != nil {
				return err
			}
			return kill(c.Context, c.String("root"), entry, state, signal, c.Bool("all"))
		},
	}
}

func kill(ctx context.Context, root string, entry *store.Entry, state store.State, signal syscall.Signal, all bool) error {
	err := virtcontainers.ErrNotRunning
	if state.Status != virtcontainers.StatusStopped {
		err = inCallersWords(entry, sendSignal(ctx, root, state, signal, all))
	}
	if all && errors.Is(err, virtcontainers.ErrNotRunning) {
		return nil // as runc: callers clean up with it
	}
	return err
}

func sendSignal(ctx context.Context, root string, state store.State, signal syscall.Signal, all bool) error {
	client, err := connect(ctx, root, state)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Kill(ctx, state.ID, signal, all)
}

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name:      "delete",
		Usage:     "remove what a stopped container left",
		ArgsUsage: "ID",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill it first; an unknown id is no error"}},
		Action: func(c *cli.Context) error {
			force := c.Bool("force")
			entry, state, err := openContainer(c)
			switch {
			case force && errors.Is(err, virtcontainers.ErrNotFound):
				return nil
			case force && errors.Is(err, store.ErrDamaged):
				return entry.Remove()
			case err != nil:
				return err
			case state.Status != virtcontainers.StatusStopped && !force:
				return fmt.Errorf("cannot delete container %s that is not stopped: %s", state.ID, state.Status)
			}
			hooks, err := keptHooks(entry, state, logger(c))
			if err != nil && !force {
				return err
			}
			removed, err := deleteContainer(c.Context, c.String("root"), entry, state, force)
			if removed && hooks != nil {
				hooks.Poststop(c.Context)
			}
			if force && anotherWasFaster(err) {
				return nil
			}
			return err
		},
	}
}

// deleteContainer removes a container, and tells whether it is this command
// that has to see to the rest.
func deleteContainer(ctx context.Context, root string, entry *store.Entry, state store.State, force bool) (removed bool, err error) {
	client, err := connect(ctx, root, state)
	if err == nil {
		var creating bool
		creating, err = client.Delete(ctx, state.ID, force)
		client.Close()
		if !errors.Is(err, supervisor.ErrGone) {
			return err == nil && !creating, err
		}
	}
	if !store.Alive(state.SupervisorPID, state.SupervisorStartTime) {
		return removeRemains(ctx, root, entry, state, remains.Remove)
	}
	if errors.Is(err, supervisor.ErrGone) {
		// It is on its way out: what it removes is gone when it is.
		return removeRemains(ctx, root, entry, state, remains.Await)
	}
	return false, err
}

// removeRemains removes with one of remains' functions what is left of a
// container whose supervisor has died, or ends.
func removeRemains(ctx context.Context, root string, entry *store.Entry, state store.State,
	remove func(context.Context, *store.Store, *store.Entry, store.State) (bool, error),
) (removed bool, err error) {
	states, err := store.Open(root)
	if err != nil {
		return false, err
	}
	return remove(ctx, states, entry, state)
}
