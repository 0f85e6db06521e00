package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/oci"
)

func envCommand() *cli.Command {
	return &cli.Command{
		Name:  "env",
		Usage: "print the effective configuration and the versions in use",
		Flags: []cli.Flag{&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "toml", Usage: "`FORMAT`: toml or json"}},
		Action: func(c *cli.Context) error {
			settings, err := config.Load(c.Context, c.String("config"))
			if err != nil {
				return err
			}
			if executable, err := os.Executable(); err == nil {
				_ = settings.ResolveAssets(executable) // check says when there is none
			}
			report := check(c.Context, c.String("config"))
			switch format := c.String("format"); format {
			case "json":
				return printJSON(c.App.Writer, environment{
					Version: version, Commit: commit, Spec: oci.SpecVersion, Go: runtime.Version(),
					Config: settings, Host: report.Findings,
				})
			case "toml":
				return printEnvironment(c, settings, report)
			default:
				return fmt.Errorf("--format is %q, not toml or json", format)
			}
		},
	}
}

// environment is env's output as JSON.
type environment struct {
	Version string            `json:"version"`
	Commit  string            `json:"commit"`
	Spec    string            `json:"spec"`
	Go      string            `json:"go"`
	Config  *config.Config    `json:"config"`
	Host    []machine.Finding `json:"host"`
}

// printEnvironment writes a configuration file that can be used as it is, with
// what was found on the host as comments.
func printEnvironment(c *cli.Context, settings *config.Config, report checkReport) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "# kata-runtime %s, commit %s, runtime-spec %s, %s\n", version, commit, oci.SpecVersion, runtime.Version())
	for _, f := range report.Findings {
		fmt.Fprintf(&text, "# %s: %s", f.Name, f.Status)
		for _, part := range []string{f.Value, f.Detail} {
			if part != "" {
				fmt.Fprintf(&text, ", %s", part)
			}
		}
		fmt.Fprintln(&text)
	}
	fmt.Fprintln(&text)
	if err := settings.Encode(&text); err != nil {
		return err
	}
	_, err := c.App.Writer.Write(text.Bytes())
	return err
}
