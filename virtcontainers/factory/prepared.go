package factory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/logfile"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/namespace"
)

// groupTimeout bounds the wait for the last processes of a machine's control group.
const groupTimeout = 20 * time.Second

// Describe tells what fits a pod with this configuration, in a process that runs this
// program and is otherwise like this one.
func Describe(kind pool.Kind, settings *config.Config, program string) (pool.Fit, error) {
	return pool.Describe(kind, settings, program, machine.Programs(settings.Hypervisor))
}

// Misfit tells by its configuration alone why a pod cannot have a machine that was made
// from base; "" for one that can.
func Misfit(base *config.Config, spec Spec) (pool.Reason, error) {
	host, err := pool.DigestConfig(base)
	if err != nil {
		return "", err
	}
	own, err := pool.DigestConfig(spec.Config)
	if err != nil {
		return "", err
	}
	sizes := sizingOptions(spec)
	switch {
	case host != own:
		return pool.ReasonConfiguration, nil
	case spec.HostNetwork:
		return pool.ReasonHostNetwork, nil
	case sizes.Static && firstSize(spec, sizes) != sizes.Policy.Default:
		return pool.ReasonSize, nil
	default:
		return "", nil
	}
}

// Prepared is a machine that has booted and belongs to nobody. It is the calling
// process's, which becomes the pod's.
type Prepared struct {
	slot     *pool.Slot
	kind     pool.Kind
	made     *assembled
	settings *config.Config
	log      *logfile.Later
	group    *cgroup.Group // its processes are in it; nil for none
	former   *cgroup.Membership
	stays    bool // the group does, and with it what the pool has of the machine
	// cold is New, but in tests.
	cold func(context.Context, Spec) (*virtcontainers.Sandbox, string, error)

	counting sync.WaitGroup

	mu    sync.Mutex // guards given
	given bool       // to a pod, or stopped
}

// newPrepared is a machine that there is nothing of yet. Stop releases what there is by
// then, unless Assign gives it away.
func newPrepared(slot *pool.Slot, kind pool.Kind, settings *config.Config) *Prepared {
	return &Prepared{slot: slot, kind: kind, settings: settings, log: logfile.NewLater(), cold: New}
}

// boot boots the machine in the calling process, whose mount namespace must be its own,
// waits for its agent, and lets it rehearse.
func (p *Prepared) boot(ctx context.Context) (err error) {
	log := slog.New(p.log).With("machine", p.slot.Name())
	if err := namespace.SlaveMounts(); err != nil {
		return err
	}
	if p.kind == pool.Supervisor {
		// Before the guest is there that it listens to. The shim keeps what hooks need.
		if err := machine.Restrict(p.settings.Hypervisor); err != nil {
			return err
		}
	}
	// Not on the host: it goes with this process, and the pod's own directory is not known.
	dir := p.slot.MountPoint()
	if err := unix.Mount("kata-machine", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=1m"); err != nil {
		return fmt.Errorf("mount a directory for the machine on %s: %w", dir, err)
	}
	spec := Spec{
		ID: p.slot.Name(), Dir: dir, ShareDir: filepath.Join(dir, "share"), Spare: true, Kind: p.kind, Config: p.settings, Log: log,
	}
	if p.settings.Factory.Template {
		if err := p.ensureTemplate(ctx, spec); err != nil {
			if ctx.Err() != nil {
				return err
			}
			log.Warn("no machine was saved", "error", err)
			if err := p.slot.Pool().TemplateFailed(ctx, p.kind, err); err != nil {
				log.Warn("the pool does not count", "error", err)
			}
		}
	}
	if p.made, err = bootOrRestore(ctx, spec, func(*assembled) error { return nil }); err != nil {
		return err
	}
	return p.made.sandbox.Rehearse(ctx)
}

// enterGroup moves this process into a control group of its own: its parent's would not
// end with its parent, and what is prepared is not to be charged to it.
func (p *Prepared) enterGroup(ctx context.Context, name string) error {
	options := cgroup.Options{ID: name, Path: "/kata-" + name}
	if cgroup.SystemdRuns() {
		options = cgroup.Options{ID: name, Systemd: true}
	}
	record, err := cgroup.Resolve(options)
	if err != nil {
		return err
	}
	if err := p.slot.SetCgroup(ctx, record); err != nil {
		return err
	}
	if p.group, err = record.Open(); err != nil {
		return err
	}
	p.former, err = p.group.Join()
	return err
}

// Ended is closed when the machine has ended.
func (p *Prepared) Ended() <-chan struct{} { return p.made.sandbox.Ended() }

// Misfit tells why a pod cannot have the machine; "" for one that can.
func (p *Prepared) Misfit(spec Spec) (pool.Reason, error) {
	select {
	case <-p.Ended():
		return pool.ReasonDied, nil
	default:
		return Misfit(p.settings, spec)
	}
}

// NewSandbox is New for a process that has a prepared machine: the first pod that it fits
// gets it. Any other starts cold. The pool counts which of both it was.
func (p *Prepared) NewSandbox(ctx context.Context, spec Spec) (sandbox *virtcontainers.Sandbox, vsock string, err error) {
	p.mu.Lock()
	given := p.given
	p.mu.Unlock()
	if given {
		return p.cold(ctx, spec)
	}
	reason, err := p.Misfit(spec)
	if err == nil && reason == "" {
		if sandbox, vsock, err = p.Assign(ctx, spec); err == nil {
			spec.Log.Info("machine from the pool")
			p.count(ctx, func(ctx context.Context) error { return p.slot.Pool().Hit(ctx, p.kind) })
			return sandbox, vsock, nil
		}
	}
	if err != nil {
		reason = pool.ReasonFailed
	}
	spec.Log.Info("the prepared machine is not the pod's, which starts cold", "reason", reason, "error", err)
	p.count(ctx, func(ctx context.Context) error { return p.slot.Pool().Miss(ctx, p.kind, reason) })
	if err := p.stop(ctx); err != nil {
		spec.Log.Warn("a prepared machine was not released", "error", err)
	}
	return p.cold(ctx, spec)
}

// count lets the pool count, in the background.
func (p *Prepared) count(ctx context.Context, what func(context.Context) error) {
	ctx = context.WithoutCancel(ctx)
	p.counting.Go(func() { _ = what(ctx) }) // nothing depends on it
}

// Assign gives the machine to a pod, in whose control group this process is: the others
// follow it there, and have its score for the lack of memory from then on. The machine's
// log is the pod's. After an error the machine is gone.
func (p *Prepared) Assign(ctx context.Context, spec Spec) (sandbox *virtcontainers.Sandbox, vsock string, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop(context.WithoutCancel(ctx)))
		}
	}()
	p.log.Follow(ctx, spec.Log.Handler())
	if err := p.joinPod(ctx, spec.Group); err != nil {
		return nil, "", err
	}
	if spec.Interfaces > 0 {
		for _, tap := range p.made.networking.Spare {
			p.made.networking.Keep = append(p.made.networking.Keep, tap.MAC)
		}
	}
	limit, err := limitHost(spec, p.made.machine.Info(), p.made.size, spec.Demand.Max(spec.SandboxDemand))
	if err != nil {
		return nil, "", err
	}
	if err := p.made.assign(spec, limit); err != nil {
		return nil, "", err
	}
	p.mu.Lock()
	p.given = true
	p.mu.Unlock()
	return p.made.sandbox, p.made.machine.Vsock(), nil
}

// joinPod moves the machine's processes into the pod's control group, or without one to
// this process, and removes their own.
func (p *Prepared) joinPod(ctx context.Context, group *cgroup.Group) error {
	pids, err := p.group.Processes()
	if err != nil {
		return err
	}
	if err := shareScore(pids); err != nil {
		return err
	}
	if group == nil {
		err = p.group.MoveTo(os.Getpid())
	} else {
		err = group.Absorb(p.group)
	}
	return errors.Join(err, p.removeGroup(ctx))
}

// Adopt makes this process what it were if a command had started it: in the command's
// control groups, and with its score for the lack of memory.
func (p *Prepared) Adopt(command int) error {
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", command))
	if err == nil {
		err = os.WriteFile("/proc/self/oom_score_adj", score, 0)
	}
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("take on the command's OOM score: %w", err)
	}
	return p.group.Send(os.Getpid(), command)
}

// shareScore gives processes this process's score for the lack of memory.
func shareScore(pids []int) error {
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return fmt.Errorf("read this process's OOM score: %w", err)
	}
	for _, pid := range pids {
		err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", score, 0)
		// It has ended, or is the kernel's, or may not have a lower one.
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("set the OOM score of process %d: %w", pid, err)
		}
	}
	return nil
}

// removeGroup removes the machine's group, and then what the pool has of it: by that, who
// finds this process killed finds the group.
func (p *Prepared) removeGroup(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, groupTimeout)
	defer cancel()
	group := p.group
	p.group = nil
	if err := group.Remove(ctx); err != nil {
		p.stays = true
		return err
	}
	if p.stays {
		return nil
	}
	return p.slot.Remove()
}

// Stop ends the machine, unless a pod has it. What it leaves behind, the pool knows of.
// Idempotent.
func (p *Prepared) Stop(ctx context.Context) error {
	err := p.stop(ctx)
	p.counting.Wait()
	return err
}

// stop is Stop for who does not wait until the pool has counted: it may be locked.
func (p *Prepared) stop(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.given {
		return nil
	}
	p.given = true
	var errs []error
	if p.made != nil {
		errs = append(errs, p.made.stop(ctx))
	}
	return errors.Join(append(errs, p.leaveGroup(), p.removeGroup(ctx))...)
}

// leaveGroup takes this process out of the machine's group, unless it has gone to a
// pod's.
func (p *Prepared) leaveGroup() error {
	pids, err := p.group.Processes()
	if err != nil || !slices.Contains(pids, os.Getpid()) {
		return err
	}
	return p.former.Leave()
}
