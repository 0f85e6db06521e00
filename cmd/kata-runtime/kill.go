package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/store"
)

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
