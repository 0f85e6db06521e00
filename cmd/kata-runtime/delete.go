package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/remains"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

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
