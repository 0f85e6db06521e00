package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

func pauseCommand() *cli.Command {
	return simpleCommand("pause", "freeze the processes of a container",
		func(ctx context.Context, client *supervisor.Client, state store.State) error {
			return client.Pause(ctx, state.ID)
		})
}

func resumeCommand() *cli.Command {
	return simpleCommand("resume", "let the processes of a paused container go on",
		func(ctx context.Context, client *supervisor.Client, state store.State) error {
			return client.Resume(ctx, state.ID)
		})
}

func simpleCommand(name, usage string, call func(context.Context, *supervisor.Client, store.State) error) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "ID",
		Action: func(c *cli.Context) error {
			id, err := containerID(c)
			if err != nil {
				return err
			}
			return withSupervisor(c, id, call)
		},
	}
}
