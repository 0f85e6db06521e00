package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"kata-runtime/deploy"
	"kata-runtime/deploy/node"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/logfile"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/sizing"
)

func nodeCommand() *cli.Command {
	command := &cli.Command{
		Name:  "node",
		Usage: "make a Kubernetes node of this machine, or of one whose root directory is mounted",
		Subcommands: []*cli.Command{
			nodeInstallCommand(), nodeRemoveCommand(), nodeOverheadCommand(), nodePauseCommand(),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("no such command: %q (see kata-runtime node --help)", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
	for _, sub := range command.Subcommands {
		sub.HideHelpCommand = true
		sub.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return err }
	}
	return command
}

// nodeFlags are those of install and remove.
func nodeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "host", Value: "/", Usage: "the node's root `DIRECTORY`"},
		&cli.BoolFlag{Name: "restart", Usage: "let the node's systemd restart containerd and CRI-O when their configuration has changed"},
		&cli.StringFlag{Name: "label", Usage: "set `KEY=VALUE` on the node in the cluster at the end of install, and take it away at the beginning of remove"},
		&cli.StringFlag{Name: "node", EnvVars: []string{"NODE_NAME"}, Usage: "the node's `NAME` in the cluster, for --label"},
	}
}

// nodeOptions are those that install and remove have in common.
func nodeOptions(c *cli.Context) (node.Options, error) {
	if c.NArg() != 0 {
		return node.Options{}, fmt.Errorf("node %s takes no arguments, only options", c.Command.Name)
	}
	level := slog.LevelInfo
	if c.Bool("debug") {
		level = slog.LevelDebug
	}
	o := node.Options{
		Root: c.String("host"), Restart: c.Bool("restart"), Label: c.String("label"), NodeName: c.String("node"), Version: version,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: logfile.Logrus})),
	}
	if o.Label != "" {
		var err error
		if o.Labeler, err = node.ClusterLabeler(); err != nil {
			return o, err
		}
	}
	return o, nil
}

func nodeInstallCommand() *cli.Command {
	return &cli.Command{
		Name:  "install",
		Usage: "install this program with its images, and name the handler to containerd and CRI-O; again to upgrade or to repair",
		Flags: append(nodeFlags(),
			&cli.StringFlag{Name: "prefix", Value: node.DefaultPrefix, Usage: "install below `DIRECTORY` of the node"},
			&cli.StringFlag{Name: "from", Usage: "copy what is below `DIRECTORY`, instead of this program's own prefix"},
			&cli.StringFlag{Name: "handler", Value: node.DefaultHandler, Usage: "`NAME` of the handler"},
			&cli.StringFlag{Name: "front-end", Value: string(node.FrontEndOCI), Usage: "`PROGRAM` that the managers call: oci (kata-runtime) or shim (containerd-shim-kata-v2)"},
			&cli.StringSliceFlag{Name: "manager", Usage: "`NAME` of a manager to configure, containerd or crio, instead of those that the node has; can be repeated"},
			&cli.StringFlag{Name: "containerd", Usage: "`PATH` of containerd on the node, instead of a search"},
			&cli.StringFlag{Name: "containerd-config", Value: node.DefaultContainerdConfig, Usage: "`PATH` of its configuration on the node"},
			&cli.BoolFlag{Name: "systemd-cgroup", Usage: "control groups are systemd's, or with =false not, instead of as containerd's default runtime has it"},
			&cli.BoolFlag{Name: "skip-check", Usage: "configure the managers also where `kata-runtime check` says that VMs cannot run"},
		),
		Action: func(c *cli.Context) error {
			o, err := nodeOptions(c)
			if err != nil {
				return err
			}
			if o.Payload, err = payload(c.String("from")); err != nil {
				return err
			}
			o.Configuration = deploy.Configuration
			o.Handler = node.Handler{Name: c.String("handler"), Prefix: c.String("prefix"), FrontEnd: node.FrontEnd(c.String("front-end"))}
			for _, name := range c.StringSlice("manager") {
				o.Managers = append(o.Managers, node.Manager(name))
			}
			o.Containerd, o.ContainerdConfig = c.String("containerd"), c.String("containerd-config")
			if c.IsSet("systemd-cgroup") {
				o.SystemdCgroup = new(c.Bool("systemd-cgroup"))
			}
			o.SkipCheck = c.Bool("skip-check")
			return node.Install(c.Context, o)
		},
	}
}

// payload is the prefix that is copied: PREFIX of this program in PREFIX/bin.
func payload(from string) (string, error) {
	if from != "" {
		return from, nil
	}
	executable, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program, which is what is installed: %w", err)
	}
	bin := filepath.Dir(executable)
	if filepath.Base(bin) != "bin" {
		return "", fmt.Errorf("%s is in no directory bin beside its images: name the one above with --from", executable)
	}
	return filepath.Dir(bin), nil
}

func nodeRemoveCommand() *cli.Command {
	return &cli.Command{
		Name:  "remove",
		Usage: "take away what install did, and nothing else",
		Flags: nodeFlags(),
		Action: func(c *cli.Context) error {
			o, err := nodeOptions(c)
			if err != nil {
				return err
			}
			return node.Remove(c.Context, o)
		},
	}
}

// nodeOverhead is overhead's output as JSON: that of a RuntimeClass.
type nodeOverhead struct {
	PodFixed map[string]string `json:"podFixed"`
}

func nodeOverheadCommand() *cli.Command {
	return &cli.Command{
		Name:  "overhead",
		Usage: "print what a pod takes beyond its containers, for a RuntimeClass, as the configuration has it",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "emulated", Usage: "without hardware virtualization"},
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "yaml", Usage: "`FORMAT`: yaml or json"},
		},
		Action: func(c *cli.Context) error {
			settings, err := config.Load(c.Context, c.String("config"))
			if err != nil {
				return err
			}
			overhead := sizing.OverheadOf(settings.Hypervisor.DefaultMemoryMiB, machine.OverheadMiB(c.Bool("emulated")))
			memory, cpu := fmt.Sprintf("%dMi", overhead.MemoryMiB), fmt.Sprintf("%dm", overhead.MilliCPUs)
			switch format := c.String("format"); format {
			case "json":
				return printJSON(c.App.Writer, nodeOverhead{map[string]string{"memory": memory, "cpu": cpu}})
			case "yaml":
				_, err := fmt.Fprintf(c.App.Writer, "overhead:\n  podFixed:\n    memory: %s\n    cpu: %s\n", memory, cpu)
				return err
			default:
				return fmt.Errorf("--format is %q, not yaml or json", format)
			}
		},
	}
}

func nodePauseCommand() *cli.Command {
	return &cli.Command{
		Name:  "pause",
		Usage: "do nothing until told to end: what keeps a DaemonSet's pod once its work is done",
		Action: func(c *cli.Context) error {
			ctx, stop := signal.NotifyContext(c.Context, unix.SIGTERM, unix.SIGINT)
			defer stop()
			<-ctx.Done()
			return nil
		},
	}
}
