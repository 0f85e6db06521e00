package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/store"
)

// stateView is what callers read of a container: the runtime-spec's state with
// the fields that runc adds.
type stateView struct {
	OCIVersion  string                `json:"ociVersion"`
	ID          string                `json:"id"`
	PID         int                   `json:"pid"`
	Status      virtcontainers.Status `json:"status"`
	Bundle      string                `json:"bundle"`
	Rootfs      string                `json:"rootfs"`
	Created     time.Time             `json:"created"`
	Annotations map[string]string     `json:"annotations,omitempty"`
	Owner       string                `json:"owner"`
}

func viewOf(state store.State) stateView {
	view := stateView{
		OCIVersion: state.OCIVersion, ID: state.ID, PID: state.StandInPID, Status: state.Status, Bundle: state.Bundle,
		Rootfs: state.Rootfs, Created: state.Created, Annotations: state.Annotations, Owner: state.Owner,
	}
	if state.Status == virtcontainers.StatusStopped {
		view.PID = 0
	}
	return view
}

func stateCommand() *cli.Command {
	return &cli.Command{
		Name:      "state",
		Usage:     "print the state of a container",
		ArgsUsage: "ID",
		Action: func(c *cli.Context) error {
			_, state, err := openContainer(c)
			if err != nil {
				return err
			}
			return printJSON(c.App.Writer, viewOf(state))
		},
	}
}

func listCommand() *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "list the containers under --root",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "table", Usage: "`FORMAT`: table or json"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print ids only"},
		},
		Action: func(c *cli.Context) error {
			views, err := list(c.String("root"), c.App.ErrWriter)
			if err != nil {
				return err
			}
			if c.Bool("quiet") {
				for _, view := range views {
					fmt.Fprintln(c.App.Writer, view.ID)
				}
				return nil
			}
			switch format := c.String("format"); format {
			case "json":
				return printJSON(c.App.Writer, views)
			case "table":
				return printTable(c.App.Writer, views)
			default:
				return fmt.Errorf("--format is %q, not table or json", format)
			}
		},
	}
}

// list views the containers below root. One whose state cannot be read does not
// hide the others: what is wrong with it goes to warnings, in runc's words.
func list(root string, warnings io.Writer) ([]stateView, error) {
	states, err := store.Open(root)
	if err != nil {
		return nil, err
	}
	entries, err := states.List()
	if err != nil {
		return nil, err
	}
	views := []stateView{} // an empty list, not null
	for _, entry := range entries {
		state, err := currentState(entry)
		if errors.Is(err, virtcontainers.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			fmt.Fprintf(warnings, "load container %s: %v\n", entry.ID(), err)
			continue
		}
		views = append(views, viewOf(state))
	}
	return views, nil
}

func printTable(w io.Writer, views []stateView) error {
	table := tabwriter.NewWriter(w, 12, 1, 3, ' ', 0)
	fmt.Fprintln(table, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
	for _, v := range views {
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\n", v.ID, v.PID, v.Status, v.Bundle, v.Created.Format(time.RFC3339Nano), v.Owner)
	}
	return table.Flush()
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// lookup finds a container's state.
func lookup(root, id string) (*store.Entry, error) {
	states, err := store.Open(root)
	if err != nil {
		return nil, err
	}
	return states.Lookup(id)
}
