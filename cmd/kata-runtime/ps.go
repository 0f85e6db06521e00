package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"kata-runtime/hypervisor/tail"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

func psCommand() *cli.Command {
	return &cli.Command{
		Name:      "ps",
		Usage:     "list the processes of a container",
		ArgsUsage: "ID",
		Flags: []cli.Flag{&cli.StringFlag{
			Name: "format", Aliases: []string{"f"}, Value: "table",
			Usage: "`FORMAT`: table has the guest's processes, json the host's pids that stand for them",
		}},
		Action: func(c *cli.Context) error {
			format := c.String("format")
			if format != "table" && format != "json" {
				return fmt.Errorf("--format is %q, not table or json", format)
			}
			if c.NArg() < 1 { // options of ps(1) may follow the id
				return errors.New("ps needs a container's id")
			}
			return withSupervisor(c, c.Args().First(), func(ctx context.Context, client *supervisor.Client, state store.State) error {
				list, err := client.Processes(ctx, state.ID)
				if err != nil {
					return err
				}
				if format == "json" {
					return json.NewEncoder(c.App.Writer).Encode(list.GetStandInPids())
				}
				table := tabwriter.NewWriter(c.App.Writer, 0, 1, 2, ' ', 0)
				fmt.Fprintln(table, "UID\tPID\tPPID\tTIME\tCMD")
				for _, p := range list.GetProcesses() {
					fmt.Fprintf(table, "%s\t%d\t%d\t%s\t%s\n", tail.Line(p.GetUser()), p.GetPid(), p.GetPpid(), tail.Line(p.GetTime()), tail.Line(p.GetCommand()))
				}
				return table.Flush()
			})
		},
	}
}
