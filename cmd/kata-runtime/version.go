package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers/oci"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:   "version",
		Usage:  "print the version",
		Action: func(c *cli.Context) error { return printVersion(c.App.Writer) },
	}
}

func printVersion(w io.Writer) error {
	_, err := fmt.Fprintf(w, "kata-runtime version %s\ncommit: %s\nspec: %s\n", version, commit, oci.SpecVersion)
	return err
}
