package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/lifecycle"
	"kata-runtime/virtcontainers/store"
)

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
				return since(state, fmt.Errorf("cannot start a container that is %s", state.Status))
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
