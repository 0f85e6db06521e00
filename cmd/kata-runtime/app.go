package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/logfile"
	"kata-runtime/virtcontainers/store"
)

// exitError carries the exit code of a container through the command line
// library; there is nothing to report.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// runCommandLine runs one command and returns the program's exit code: 0, the
// container's, or 1 for an error, which is then reported.
func runCommandLine(args []string) int {
	app := newApp()
	var report reporter
	app.Before = func(c *cli.Context) error {
		if err := report.open(c); err != nil {
			return err
		}
		return makeRootAbsolute(c)
	}
	defer report.close()
	err := app.RunContext(context.Background(), args)
	var exit exitError
	var execErr *execError
	var machineEnd *machineEndError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &execErr):
		report.error(err)
		return execFailure
	case errors.As(err, &machineEnd):
		report.error(err)
		return machineEnd.code
	default:
		report.error(err)
		return 1
	}
}

// makeRootAbsolute: the supervisor does not share this process's directory.
func makeRootAbsolute(c *cli.Context) error {
	root, err := filepath.Abs(c.String("root"))
	if err != nil {
		return fmt.Errorf("find --root: %w", err)
	}
	return c.Set("root", root)
}

func newApp() *cli.App {
	return &cli.App{
		Name:                      "kata-runtime",
		Usage:                     "run containers, each pod in a virtual machine of its own",
		Version:                   version,
		HideVersion:               true, // our own flag: --version and -v print three lines
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true,
		EnableBashCompletion:      false,
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              func(_ *cli.Context, err error, _ bool) error { return err },
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "root", Value: store.DefaultRoot, Usage: "`DIR` for the state of containers"},
			&cli.StringFlag{Name: "log", Usage: "`FILE` to append messages to"},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "`FORMAT` of the messages: text or json"},
			&cli.BoolFlag{Name: "debug", Usage: "report what is done, with timings"},
			&cli.StringFlag{Name: "config", Aliases: []string{"kata-config"}, Usage: "configuration `FILE`, instead of the first of " + strings.Join(config.DefaultPaths(), ", ")},
			&cli.BoolFlag{Name: "systemd-cgroup", Usage: "let systemd make the control group; linux.cgroupsPath is slice:prefix:name then"},
			&cli.GenericFlag{Name: "rootless", Value: new(ignoredValue), Usage: "accepted and ignored"},
			&cli.StringFlag{Name: "cgroup-manager", Usage: "with `disabled` no control group is made, as crun has it", Hidden: true},
			&cli.StringFlag{Name: "criu", Usage: "accepted and ignored", Hidden: true},
			&cli.BoolFlag{Name: "kata-show-default-config-paths", Usage: "print where a configuration file is looked for", Hidden: true},
			&cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version"},
		},
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				return printVersion(c.App.Writer)
			}
			if c.Bool("kata-show-default-config-paths") {
				_, err := fmt.Fprintln(c.App.Writer, strings.Join(config.DefaultPaths(), "\n"))
				return err
			}
			switch name := c.Args().First(); name {
			case "":
				return cli.ShowAppHelp(c)
			case "help", "h":
				return help(c, c.Args().Get(1))
			default:
				return noSuchCommand(name)
			}
		},
		Commands: commands(),
	}
}

func commands() []*cli.Command {
	list := []*cli.Command{
		createCommand(), startCommand(), runCommand(), execCommand(), stateCommand(), listCommand(), killCommand(), deleteCommand(),
		pauseCommand(), resumeCommand(), updateCommand(), psCommand(), eventsCommand(),
		checkpointCommand(), restoreCommand(),
		factoryCommand(), metricsCommand(), specCommand(), featuresCommand(), checkCommand(), envCommand(), nodeCommand(), versionCommand(),
	}
	for _, command := range list {
		command.HideHelpCommand = true
		command.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return err }
		if command.ArgsUsage == "" && len(command.Subcommands) == 0 {
			command.Action = withoutArguments(command.Action)
		}
	}
	return list
}

// withoutArguments refuses what a command has no use for.
func withoutArguments(action cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.Args().Present() {
			return fmt.Errorf("%s takes no arguments, but has %q", c.Command.Name, c.Args().First())
		}
		return action(c)
	}
}

// help lists the commands, or shows one's flags. It is no command, beside which the
// library would have no flag --help.
func help(c *cli.Context, name string) error {
	switch {
	case name == "":
		return cli.ShowAppHelp(c)
	case c.App.Command(name) == nil:
		return noSuchCommand(name)
	default:
		return cli.ShowCommandHelp(c, name)
	}
}

func noSuchCommand(name string) error {
	return fmt.Errorf("no such command: %q (see kata-runtime --help)", name)
}

// ignoredValue is a flag that may stand alone or have a value, and that means
// nothing: --rootless, --rootless=auto.
type ignoredValue struct{}

func (*ignoredValue) Set(string) error { return nil }
func (*ignoredValue) String() string   { return "" }
func (*ignoredValue) IsBoolFlag() bool { return true }

// reporter writes errors, and with --debug messages, where the caller wants
// them.
type reporter struct {
	file *os.File
	log  *slog.Logger
}

func (r *reporter) open(c *cli.Context) error {
	var to io.Writer = os.Stderr
	if path := c.String("log"); path != "" {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644) //nolint:gosec // as runc: callers read it
		if err != nil {
			return fmt.Errorf("open the log: %w", err)
		}
		r.file, to = file, file
	}
	level := slog.LevelWarn
	if c.Bool("debug") {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: logfile.Logrus}
	r.log = slog.New(slog.NewTextHandler(to, options))
	switch format := c.String("log-format"); format {
	case "text", "":
	case "json":
		r.log = slog.New(slog.NewJSONHandler(to, options))
	default:
		return fmt.Errorf("--log-format is %q, not text or json", format)
	}
	c.Context = context.WithValue(c.Context, loggerKey{}, r.log)
	return nil
}

func (r *reporter) error(err error) {
	fmt.Fprintln(os.Stderr, "kata-runtime:", err)
	if r.file != nil {
		r.log.Error(err.Error())
	}
}

func (r *reporter) close() {
	if r.file != nil {
		r.file.Close()
	}
}

type loggerKey struct{}

// logger is where a command writes its messages.
func logger(c *cli.Context) *slog.Logger {
	if log, ok := c.Context.Value(loggerKey{}).(*slog.Logger); ok {
		return log
	}
	return slog.New(slog.DiscardHandler)
}

// containerID is a command's one argument.
func containerID(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", fmt.Errorf("%s takes one argument, the container's id, not %d", c.Command.Name, c.NArg())
	}
	return c.Args().First(), nil
}

// closeOnExec marks every descriptor but the standard streams.
func closeOnExec() error {
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark descriptors close-on-exec: %w", err)
	}
	return nil
}
