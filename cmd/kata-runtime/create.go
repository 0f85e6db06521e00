package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"kata-runtime/hypervisor/tail"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/bundle"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/lifecycle"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/sizing"
	"kata-runtime/virtcontainers/standin"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
	"kata-runtime/virtcontainers/supervisor/api"
)

// creationFlags are those that create and run share.
func creationFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Value: ".", Usage: "`DIR` of the bundle"},
		&cli.StringFlag{Name: "pid-file", Usage: "`FILE` to write the pid of the container's stand-in to"},
		&cli.StringFlag{Name: "console-socket", Usage: "unix `SOCKET` that receives the terminal's descriptor"},
		&cli.StringFlag{Name: "pidfd-socket", Usage: pidfdSocketUsage},
		&cli.BoolFlag{Name: "no-pivot", Usage: "accepted and ignored: the guest always pivots"},
		&cli.BoolFlag{Name: "no-new-keyring", Usage: "accepted and ignored"},
		&cli.IntFlag{Name: "preserve-fds", Usage: "only 0: descriptors cannot enter a virtual machine"},
	}
}

func createCommand() *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "create a container that waits for start",
		ArgsUsage: "ID",
		Flags:     creationFlags(),
		Action: func(c *cli.Context) error {
			created, err := create(c, false)
			if err != nil {
				return err
			}
			err = created.commit(c.Context)
			created.pool.refill(c.Context)
			return err
		},
	}
}

// creation is a container that has been created and not committed yet.
type creation struct {
	root    string
	id      string
	sandbox string // the id of its pod, which is its own when it starts one
	created bool   // the supervisor has it, reserved at least, or may have had
	client  *supervisor.Client
	// supervisor is that of the pod.
	supervisor process
	standIn    *exec.Cmd
	// standInStart is its start time, 0 until it is known.
	standInStart uint64
	standInEnded chan struct{} // of standInEnd
	standInErr   error
	group        *cgroup.Record // nil for none
	// pool is where the pod's machine was taken from, or was looked for; nil: nowhere.
	pool *machinePool
	// terminal tells that the container's process has one.
	terminal bool
	// hooks are nil until the first of them is due.
	hooks *lifecycle.Hooks
	log   *slog.Logger
	// began is when the command did, and origin when the pod's sandbox was, from which
	// stages count; zero: not known.
	began, origin time.Time
}

// process names a process for good.
type process struct {
	pid   int // 0 for none
	start uint64
}

// create makes a container from the command's flags, up to its pid file.
func create(c *cli.Context, attached bool) (*creation, error) {
	id, err := containerID(c)
	if err != nil {
		return nil, err
	}
	if err := oci.ValidateID(id); err != nil {
		return nil, err
	}
	began := time.Now()
	prepared, err := prepare(c, id, attached)
	if err != nil {
		return nil, &virtcontainers.StageError{Stage: virtcontainers.StagePrepare, Err: err}
	}
	defer prepared.stdio.close()
	defer prepared.bundle.Close()
	created := prepared.creation
	created.began = began
	err = created.make(c.Context, prepared)
	if err == nil {
		err = created.reportPID(c)
	}
	if err != nil {
		return nil, errors.Join(err, created.abandon(c.Context))
	}
	return created, nil
}

// reportPID tells the caller the stand-in's pid in the ways that the flags name.
func (n *creation) reportPID(c *cli.Context) error {
	pid := n.standIn.Process.Pid
	if path := c.String("pid-file"); path != "" {
		if err := writePIDFile(path, pid); err != nil {
			return err
		}
	}
	return sendPIDFD(c.Context, c.String("pidfd-socket"), pid)
}

// preparation is a container whose machine boots already.
type preparation struct {
	creation *creation
	bundle   *bundle.Bundle
	config   []byte // the caller's specification, as JSON
	guest    []byte // the guest's
	stdio    *stdio
}

// prepare reads what the container is to be and launches its pod.
func prepare(c *cli.Context, id string, attached bool) (_ *preparation, err error) {
	if n := c.Int("preserve-fds"); n != 0 {
		return nil, fmt.Errorf("--preserve-fds %d: open descriptors cannot be passed into a virtual machine", n)
	}
	p := &preparation{}
	defer func() {
		if err != nil && p.bundle != nil {
			p.bundle.Close()
		}
	}()
	settings, err := loadConfig(c)
	if err != nil {
		return nil, err
	}
	allowHostNetwork := settings.Runtime.HostNetwork != config.HostNetworkRefuse
	var pod *pod
	if p.bundle, pod, err = loadBundle(c.String("bundle"), id, c.String("root"), allowHostNetwork); err != nil {
		return nil, err
	}
	if uid := os.Geteuid(); uid != 0 {
		return nil, fmt.Errorf("a virtual machine's files and network need root, and this is user %d: use sudo (rootless containers are not supported)", uid)
	}
	host := settings
	if pod == nil { // a VM that runs has its configuration
		if settings, err = settings.ForPod(p.bundle.Spec.Annotations); err != nil {
			return nil, err
		}
		executable, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program's own path: %w", err)
		}
		if settings, err = settings.ForArchitecture(executable, p.bundle.Architecture); err != nil {
			return nil, err
		}
	}
	if attached && p.bundle.Spec.Process.Terminal {
		if err := findTerminal("/dev/tty", os.Stdin, os.Stdout, os.Stderr); err != nil {
			return nil, err
		}
	}
	if p.stdio, err = newStdio(c.Context, p.bundle.Spec.Process, c.String("console-socket"), attached); err != nil {
		return nil, err
	}
	if p.guest, p.config, err = p.bundle.Encode(); err != nil {
		p.stdio.close()
		return nil, err
	}
	log := logger(c)
	for _, field := range p.bundle.Guest.Dropped {
		log.Debug("field of the spec does not reach the guest", "field", field)
	}
	for _, note := range p.bundle.Guest.Notes {
		log.Debug(note)
	}
	for _, warning := range p.bundle.Guest.Warnings {
		log.Warn(warning)
	}
	group, err := resolveCgroup(c, id, p.bundle.Spec)
	if err != nil {
		p.stdio.close()
		return nil, err
	}
	p.creation = &creation{
		root: c.String("root"), id: id, sandbox: id, group: group, terminal: p.bundle.Spec.Process.Terminal, log: log,
	}
	if pod != nil {
		p.creation.sandbox, p.creation.supervisor = pod.id, pod.supervisor
		p.creation.client, err = pod.connect(c.Context)
	} else {
		p.creation.pool = openPool(host, log)
		p.creation.client, err = p.creation.launch(c.Context, supervisor.Boot{
			Root: c.String("root"), ID: id, Hostname: p.bundle.Hostname, Cgroup: group, Config: settings, Debug: c.Bool("debug"),
			Interfaces: p.bundle.Interfaces, HostNetwork: p.bundle.HostNetwork,
			Demand: sizing.Of(p.bundle.Guest.Spec.Linux.Resources), SandboxDemand: sizing.OfSandbox(p.bundle.Spec.Annotations),
		})
	}
	if err != nil {
		p.stdio.close()
		return nil, err
	}
	return p, nil
}

// launch starts a pod of the container's own. After an error nothing is left of
// it.
func (n *creation) launch(ctx context.Context, boot supervisor.Boot) (*supervisor.Client, error) {
	client, err := n.pool.take(ctx, boot, n)
	if client == nil && err == nil {
		client, err = supervisor.Launch(ctx, boot, n.pool.starting(), func(channel *os.File) (err error) {
			n.supervisor, err = forkSupervisor(n.id, channel)
			return err
		})
	}
	n.pool.launched()
	if err != nil {
		n.pool.refill(ctx)
		return nil, errors.Join(err, n.removeLeft(ctx))
	}
	return client, nil
}

// resolveCgroup finds the host's control group of a container, as its caller
// wants it.
func resolveCgroup(c *cli.Context, id string, spec *specs.Spec) (*cgroup.Record, error) {
	if c.String("cgroup-manager") == "disabled" {
		return nil, nil //nolint:nilnil // no group
	}
	return cgroup.Resolve(cgroup.Options{ID: id, Path: spec.Linux.CgroupsPath, Systemd: c.Bool("systemd-cgroup")})
}

// maxTogether is what both forms of a specification may have, in bytes, to go to the
// supervisor in one message, of which 4 MiB is the most: the state repeats the
// annotations. Larger ones go in two.
const maxTogether = 2 << 20

// make lets the supervisor create the container.
func (n *creation) make(ctx context.Context, p *preparation) error {
	mounts, err := n.equip(p)
	if err != nil {
		return &virtcontainers.StageError{Stage: virtcontainers.StagePrepare, Err: err}
	}
	state, err := n.state(p.bundle)
	if err != nil {
		return &virtcontainers.StageError{Stage: virtcontainers.StagePrepare, Err: err}
	}
	n.hooks = newHooks(p.bundle.Spec, state, n.log)
	if n.hooks.NeedID() || len(p.guest)+len(p.config) > maxTogether {
		if err := n.client.Reserve(ctx, state, p.config); err != nil {
			n.created = errors.Is(err, supervisor.ErrGone)
			n.hooks = nil // the container is not this command's to tell of
			return err
		}
		n.created = true
	}
	if err := createHooks(ctx, n.hooks, p.bundle.Spec); err != nil {
		return &virtcontainers.StageError{Stage: virtcontainers.StageCreateContainer, Err: err}
	}
	response, err := n.client.Create(ctx, &api.CreateContainerRequest{
		ContainerId: n.id, SpecJson: p.guest, ConfigJson: p.config, Mounts: mounts,
		Stdin: p.stdio.wanted[0], Stdout: p.stdio.wanted[1], Stderr: p.stdio.wanted[2],
		MemoryVolumes: memoryVolumes(p.bundle.Guest), MemoryDirectories: memoryDirectories(p.bundle.Guest),
		BlockDevices: blockDevices(p.bundle.Guest),
		ResolvConf:   p.bundle.ResolvConf(),
		ShareName:    p.bundle.ShareName,
		Pause:        p.bundle.Pauses(),
		Architecture: p.bundle.Architecture, ArchitectureBy: p.bundle.ArchitectureBy,
	}, state)
	if err != nil {
		n.created = n.created || errors.Is(err, supervisor.ErrGone)
		return p.bundle.HostPaths(err)
	}
	n.created = true
	n.reportMachine(response)
	return nil
}

// equip forks the stand-in and gives the supervisor what only this process can
// reach: the mounts, as its caller sees them, which it describes, and the
// stand-in's channel.
func (n *creation) equip(p *preparation) ([]*api.Mount, error) {
	restore, err := limits.MoreFiles()
	if err != nil {
		return nil, err
	}
	defer restore()
	trees, err := p.bundle.OpenTrees()
	if err != nil {
		return nil, err
	}
	defer trees.Close()
	theirs, err := n.startStandIn(p, trees)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	mounts, files := describeMounts(trees.Share)
	err = errors.Join(n.client.SendFiles(files), n.client.SendStandIn(n.id, "", theirs))
	if err == nil && n.sandbox == n.id {
		err = n.sendNetwork(p.bundle)
	}
	return mounts, err
}

// sendNetwork gives the supervisor the network namespace of a new pod: the one that
// the specification names, or the one that was made for its stand-in.
func (n *creation) sendNetwork(b *bundle.Bundle) error {
	if netns := b.Network(); netns != nil {
		return n.client.SendNetwork(netns)
	}
	// The pid is the stand-in's until this process waits for its end.
	netns, err := namespace.Open(specs.NetworkNamespace, namespace.OfProcess(n.standIn.Process.Pid, specs.NetworkNamespace))
	if err != nil {
		return fmt.Errorf("find the network of the stand-in: %w", err)
	}
	defer netns.Close()
	return n.client.SendNetwork(netns)
}

func (n *creation) state(container *bundle.Bundle) (store.State, error) {
	start, err := store.StartTime(n.standIn.Process.Pid)
	if err != nil {
		return store.State{}, fmt.Errorf("stand-in has ended early: %w", err)
	}
	n.standInStart = start
	owner := "root"
	if current, err := user.Current(); err == nil {
		owner = current.Username
	}
	return store.State{
		OCIVersion: container.Spec.Version, ID: n.id, Bundle: container.Dir, Rootfs: container.Rootfs,
		StandInPID: n.standIn.Process.Pid, StandInStartTime: start,
		Created: time.Now().UTC(), Annotations: container.Spec.Annotations, Owner: owner, Cgroup: n.group,
	}, nil
}

// reportMachine logs, for --debug, what the container runs on and how long each
// stage took.
func (n *creation) reportMachine(response *api.CreateContainerResponse) {
	m := response.GetMachine()
	n.log.Debug("machine", "driver", m.GetDriver(), "version", m.GetVersion(), "accelerator", m.GetAccelerator(),
		"vsock", m.GetVsock(), "guest_kernel", tail.Line(m.GetGuestKernel()), "vmm_pid", m.GetVmmPid(),
		"supervisor_pid", response.GetSupervisorPid())
	n.log.Debug("agent", "rss_bytes", m.GetAgentRssBytes())
	var last int64
	for _, t := range response.GetTimings() {
		last = max(last, t.GetBeginNanos()+t.GetDurationNanos())
	}
	n.origin = time.Now().Add(-time.Duration(last)) // the last stage has just ended
	if n.origin.After(n.began) {                    // otherwise it was prepared, or is another container's
		n.reportStage("prepare host", n.began, n.origin)
	}
	n.reportTimings(response.GetTimings())
}

// reportStage logs a stage of the command's own, as reportTimings does.
func (n *creation) reportStage(name string, begin, end time.Time) {
	if !n.origin.IsZero() {
		n.log.Debug("stage", "name", name, "begin_ms", milliseconds(begin.Sub(n.origin).Nanoseconds()), "duration_ms", milliseconds(end.Sub(begin).Nanoseconds()))
	}
}

func (n *creation) reportTimings(timings []*api.Timing) {
	for _, t := range timings {
		n.log.Debug("stage", "name", t.GetStage(),
			"begin_ms", milliseconds(t.GetBeginNanos()), "duration_ms", milliseconds(t.GetDurationNanos()))
	}
}

func milliseconds(nanos int64) float64 { return float64(nanos/1000) / 1000 }

// start runs the created container's program.
func (n *creation) start(ctx context.Context) error {
	response, err := n.client.Start(ctx, n.id)
	if err != nil {
		return err
	}
	n.reportTimings(response.GetTimings()[max(0, len(response.GetTimings())-1):])
	return n.hooks.Poststart(ctx)
}

// commit lets the container outlive this command. One that cannot be committed
// is undone, as one that cannot be created.
func (n *creation) commit(ctx context.Context) error {
	if err := n.client.Commit(); err != nil {
		return errors.Join(err, n.abandon(ctx))
	}
	n.client.Close()
	return nil
}

// startStandIn forks the stand-in and returns the supervisor's end of its
// channel.
func (n *creation) startStandIn(p *preparation, trees *bundle.Trees) (*os.File, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	entry, err := lookup(n.root, n.sandbox) // of a directory that exists already
	if err != nil {
		theirs.Close()
		return nil, err
	}
	n.standIn, err = standin.Start(standin.Options{
		ID: n.id, Hostname: p.bundle.Spec.Hostname,
		Stdio: p.stdio.files, OwnsTerminal: p.stdio.ownsTerminal, Terminal: p.bundle.Spec.Process.Terminal,
		Attached:   p.stdio.attached,
		Namespaces: p.bundle.Namespaces(),
		Root:       standin.Mount(trees.Root), Mounts: standInMounts(trees.Mounts), Directory: entry.Dir(), Channel: ours,
	})
	if err != nil {
		theirs.Close()
		return nil, err
	}
	return theirs, nil
}

// loadConfig reads the configuration and finds the guest's kernel and initrd.
func loadConfig(c *cli.Context) (*config.Config, error) {
	settings, err := config.Load(c.Context, c.String("config"))
	if err != nil {
		return nil, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's own path: %w", err)
	}
	if err := settings.ResolveAssets(executable); err != nil {
		return nil, err
	}
	return settings, nil
}

// writePIDFile writes the pid in decimal, without a newline, at once whole.
func writePIDFile(path string, pid int) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(temporary, []byte(strconv.Itoa(pid)), 0o644); err != nil { //nolint:gosec // callers read it
		return errors.Join(fmt.Errorf("write the pid file: %w", err), removeIfThere(temporary))
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(fmt.Errorf("write the pid file: %w", err), removeIfThere(temporary))
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
