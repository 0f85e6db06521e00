package main

import (
	"errors"

	"github.com/urfave/cli/v2"
)

// errNoCheckpoint is the answer of both commands.
var errNoCheckpoint = errors.New("checkpoint and restore are not supported: a container in a virtual machine cannot be saved by CRIU on the host")

func checkpointCommand() *cli.Command { return refused("checkpoint") }

func restoreCommand() *cli.Command { return refused("restore") }

// refused is a command that callers know of and that does not work, whatever
// its flags are.
func refused(name string) *cli.Command {
	return &cli.Command{
		Name:            name,
		Usage:           "not supported",
		ArgsUsage:       "ID",
		SkipFlagParsing: true,
		Action:          func(*cli.Context) error { return errNoCheckpoint },
	}
}
