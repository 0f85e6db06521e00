package main

import (
	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers/oci"
)

func featuresCommand() *cli.Command {
	return &cli.Command{
		Name:   "features",
		Usage:  "print what of the runtime-spec is supported, as JSON",
		Action: func(c *cli.Context) error { return printJSON(c.App.Writer, oci.Features(version, commit)) },
	}
}
