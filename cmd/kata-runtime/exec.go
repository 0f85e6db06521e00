package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/standin"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
	"kata-runtime/virtcontainers/supervisor/api"
)

// execFailure is the exit code of an exec that did not come to run, as runc's.
const execFailure = 255

func execCommand() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run a process in a container",
		ArgsUsage: "ID [COMMAND [ARGUMENT...]]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "process", Aliases: []string{"p"}, Usage: "`FILE` that describes the process, instead of a command"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "leave the process running"},
			&cli.StringFlag{Name: "pid-file", Usage: "`FILE` to write the pid of the process's stand-in to"},
			&cli.StringFlag{Name: "console-socket", Usage: "unix `SOCKET` that receives the terminal's descriptor"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the process a terminal"},
			&cli.StringFlag{Name: "cwd", Usage: "the process's working `DIR` in the container"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`NAME=VALUE` to add to the environment"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`UID[:GID]` of the process"},
			&cli.Int64SliceFlag{Name: "additional-gids", Aliases: []string{"g"}, Usage: "further `GID`s of the process"},
			&cli.StringSliceFlag{Name: "cap", Aliases: []string{"c"}, Usage: "`CAPABILITY` to add to the process's"},
			&cli.BoolFlag{Name: "no-new-privs", Usage: "keep the process from gaining privileges"},
			&cli.StringFlag{Name: "process-label", Usage: "SELinux `LABEL` of the process, where the guest has a policy"},
			&cli.StringFlag{Name: "apparmor", Usage: "AppArmor `PROFILE` of the process, where the guest has policies"},
			&cli.IntFlag{Name: "preserve-fds", Usage: "only 0: descriptors cannot enter a virtual machine"},
			&cli.BoolFlag{Name: "ignore-paused", Usage: "in a paused container, wait until it is resumed"},
			&cli.StringSliceFlag{Name: "cgroup", Usage: "`PATH` of the process's cgroup, below the container's in the guest"},
			&cli.StringFlag{Name: "pidfd-socket", Usage: pidfdSocketUsage},
			&cli.BoolFlag{Name: guestFlag, Usage: "run the command, or a shell, in the guest of the pod and not in a container, where the configuration allows it"},
			stateDirFlag(),
		},
		Action: func(c *cli.Context) error {
			code, err := execAction(c)
			if err != nil {
				return &execError{cause: err}
			}
			if code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
}

// execError is an exec that did not come to run.
type execError struct{ cause error }

func (e *execError) Error() string {
	if text := e.cause.Error(); strings.HasPrefix(text, "exec failed") {
		return text
	}
	return "exec failed: " + e.cause.Error()
}
func (e *execError) Unwrap() error { return e.cause }

func execAction(c *cli.Context) (int, error) {
	if c.NArg() < 1 {
		return 0, errors.New("exec needs a container's id")
	}
	if c.Bool(guestFlag) {
		return execGuest(c)
	}
	if n := c.Int("preserve-fds"); n != 0 {
		return 0, fmt.Errorf("--preserve-fds %d: open descriptors cannot be passed into a virtual machine", n)
	}
	entry, state, err := openContainerID(c, c.Args().First())
	if err != nil {
		return 0, err
	}
	if state.Status == virtcontainers.StatusStopped {
		return 0, since(state, fmt.Errorf("cannot exec in a stopped container: %w", virtcontainers.ErrNotRunning))
	}
	process, err := execProcess(c, entry)
	if err != nil {
		return 0, err
	}
	attached := !c.Bool("detach")
	stdio, err := newStdio(c.Context, process, c.String("console-socket"), attached)
	if err != nil {
		return 0, err
	}
	defer stdio.close()
	n := &creation{id: state.ID, terminal: process.Terminal, log: logger(c)}
	if n.client, err = connect(c.Context, c.String("root"), state); err != nil {
		return 0, inCallersWords(entry, err)
	}
	defer n.client.Close()
	if attached {
		restore, err := n.rawTerminal() // before the process can write to it
		if err != nil {
			return 0, err
		}
		defer restore()
	}
	request, err := n.prepareExec(c, entry, state, process, stdio)
	if err == nil && attached {
		signals, stop := n.catchSignals()
		defer stop()
		err = n.forwarding(c.Context, signals, func(ctx context.Context) error { return n.exec(ctx, c, request) })
		if err == nil {
			return n.await(signals)
		}
	} else if err == nil {
		err = n.exec(c.Context, c, request)
		if err == nil {
			err = n.client.Commit()
		}
	}
	if err == nil {
		return 0, nil
	}
	abandonErr := n.abandon(c.Context)
	var exit exitError
	if errors.As(err, &exit) { // a signal has ended it
		return int(exit), abandonErr
	}
	return 0, errors.Join(inCallersWords(entry, err), abandonErr)
}

// exec lets the supervisor start the process.
func (n *creation) exec(ctx context.Context, c *cli.Context, request *api.ExecProcessRequest) error {
	if err := n.client.Exec(ctx, request); err != nil {
		return err
	}
	return n.reportPID(c)
}

// prepareExec forks the stand-in and says what the supervisor is to start.
func (n *creation) prepareExec(
	c *cli.Context, entry *store.Entry, state store.State, process *specs.Process, stdio *stdio,
) (*api.ExecProcessRequest, error) {
	callers, err := limits.OfCaller(limits.System)
	if err != nil {
		return nil, err
	}
	guest, dropped, err := oci.TransformProcess(process, callers)
	if err != nil {
		return nil, err
	}
	for _, field := range dropped {
		n.log.Debug("field of the process does not reach the guest", "field", field)
	}
	if warning := oci.UnknownCapabilities(process); warning != "" {
		n.log.Warn(warning)
	}
	encoded, err := json.Marshal(guest)
	if err != nil {
		return nil, fmt.Errorf("encode the process: %w", err)
	}
	if err := n.client.OpenChannel(c.Context); err != nil {
		return nil, err
	}
	cgroup, err := execCgroup(c.StringSlice("cgroup"))
	if err != nil {
		return nil, err
	}
	name := "exec-" + strings.ToLower(rand.Text())
	if err := n.execStandIn(entry, state, name, stdio); err != nil {
		return nil, err
	}
	start, err := store.StartTime(n.standIn.Process.Pid)
	if err != nil {
		return nil, err
	}
	return &api.ExecProcessRequest{
		ContainerId: n.id, ProcessId: name, ProcessJson: encoded,
		Stdin: stdio.wanted[0], Stdout: stdio.wanted[1], Stderr: stdio.wanted[2],
		StandInPid: int32(n.standIn.Process.Pid), StandInStartTime: start,
		Cgroup: cgroup, IgnorePaused: c.Bool("ignore-paused"),
	}, nil
}

// execStandIn forks the process's stand-in into the namespaces of the
// container's.
func (n *creation) execStandIn(entry *store.Entry, state store.State, name string, stdio *stdio) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	defer theirs.Close()
	var namespaces []specs.LinuxNamespace
	for _, kind := range []specs.LinuxNamespaceType{
		specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace, specs.CgroupNamespace,
	} {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: kind, Path: namespace.OfProcess(state.StandInPID, kind)})
	}
	n.standIn, err = standin.Start(standin.Options{
		ID: n.id, Stdio: stdio.files, OwnsTerminal: stdio.ownsTerminal, Terminal: n.terminal, Attached: stdio.attached,
		Namespaces: namespaces, Directory: entry.Dir(), Channel: ours,
	})
	if err != nil {
		return err
	}
	return n.client.SendStandIn(n.id, name, theirs)
}

// execProcess is the process that the flags describe: a file's, or the
// container's own with another command.
func execProcess(c *cli.Context, entry *store.Entry) (*specs.Process, error) {
	if path := c.String("process"); path != "" {
		return oci.LoadProcess(path)
	}
	if c.NArg() < 2 {
		return nil, errors.New("exec needs a command, or --process")
	}
	process, err := supervisor.ContainerProcess(entry)
	if err != nil {
		return nil, err
	}
	process.Args = c.Args().Slice()[1:]
	process.Terminal = c.Bool("tty")
	process.ConsoleSize = nil
	process.Env = append(process.Env, c.StringSlice("env")...)
	process.NoNewPrivileges = process.NoNewPrivileges || c.Bool("no-new-privs")
	if cwd := c.String("cwd"); cwd != "" {
		process.Cwd = cwd
	}
	if err := setUser(process, c.String("user"), c.Int64Slice("additional-gids")); err != nil {
		return nil, err
	}
	addCapabilities(process, c.StringSlice("cap"))
	process.ApparmorProfile = cmp.Or(c.String("apparmor"), process.ApparmorProfile)
	process.SelinuxLabel = cmp.Or(c.String("process-label"), process.SelinuxLabel)
	return process, oci.ValidateProcess(process)
}

func setUser(process *specs.Process, user string, groups []int64) error {
	if user != "" {
		uid, gid, hasGID := strings.Cut(user, ":")
		parsed, err := strconv.ParseUint(uid, 10, 32)
		if err != nil {
			return fmt.Errorf("--user %q: %w", user, err)
		}
		process.User.UID = uint32(parsed)
		if hasGID {
			if parsed, err = strconv.ParseUint(gid, 10, 32); err != nil {
				return fmt.Errorf("--user %q: %w", user, err)
			}
			process.User.GID = uint32(parsed)
		}
	}
	for _, group := range groups {
		if group < 0 || group > 1<<32-1 {
			return fmt.Errorf("--additional-gids %d: out of range", group)
		}
		process.User.AdditionalGids = append(process.User.AdditionalGids, uint32(group))
	}
	return nil
}

// execCgroup is the one path that the flag can give: the guest's cgroups are
// those of version 2, with one tree for all controllers.
func execCgroup(paths []string) (string, error) {
	switch {
	case len(paths) == 0:
		return "", nil
	case len(paths) > 1 || strings.Contains(paths[0], ":"):
		return "", fmt.Errorf("--cgroup %s: the guest has cgroup v2, with one path for all controllers", strings.Join(paths, ","))
	case !filepath.IsLocal("./" + paths[0]):
		return "", fmt.Errorf("--cgroup %s: not a path below the container's cgroup", paths[0])
	default:
		return paths[0], nil
	}
}

// addCapabilities adds to the sets to which runc's exec adds.
func addCapabilities(process *specs.Process, names []string) {
	if len(names) == 0 {
		return
	}
	if process.Capabilities == nil {
		process.Capabilities = &specs.LinuxCapabilities{}
	}
	sets := process.Capabilities
	for _, set := range []*[]string{&sets.Bounding, &sets.Effective, &sets.Permitted, &sets.Ambient} {
		*set = append(*set, names...)
	}
}
