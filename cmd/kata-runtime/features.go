package main

import (
	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/oci"
)

func featuresCommand() *cli.Command {
	return &cli.Command{
		Name:  "features",
		Usage: "print what of the runtime-spec is supported, as JSON",
		Action: func(c *cli.Context) error {
			settings, err := config.Load(c.Context, c.String("config"))
			if err != nil {
				return err
			}
			modules := oci.SecurityModules{AppArmor: settings.Agent.AppArmorPolicies != "", SELinux: settings.Agent.SELinuxPolicy != ""}
			return printJSON(c.App.Writer, oci.Features(version, commit, modules))
		},
	}
}
