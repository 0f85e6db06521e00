package factory

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/share"
	"kata-runtime/virtcontainers/sizing"
)

// Spec is what a pod's sandbox is made for.
type Spec struct {
	// ID is the pod's, Dir its own directory, which exists. ShareDir is made: the
	// shared directory's place.
	ID, Dir, ShareDir string
	// Hostname is the pod's; empty: each container's own.
	Hostname string
	// Group is the host's control group that this process lives in, of which the
	// limits are set; nil for none.
	Group *cgroup.Group
	// Demand is what the first container asks for, SandboxDemand what the pod
	// announced for all of them.
	Demand, SandboxDemand sizing.Demand
	// Interfaces is how many the pod's network namespace has already, with
	// whose NICs the machine starts.
	Interfaces int
	// HostNetwork tells that the pod shares the host's network, by way of one in
	// user space.
	HostNetwork bool
	// Spare: no pod waits for the machine.
	Spare bool
	// Kind is the front end that this process is.
	Kind   pool.Kind
	Config *config.Config
	Log    *slog.Logger
}

// New makes a sandbox whose machine begins to boot. vsock names the kind of its
// vsock. The mount namespace must be private to this process. After an error
// nothing is left of it but the directory's content.
func New(ctx context.Context, spec Spec) (sandbox *virtcontainers.Sandbox, vsock string, err error) {
	var limit func(hypervisor.Size, sizing.Demand) error
	made, err := bootOrRestore(ctx, spec, func(made *assembled) (err error) {
		limit, err = limitHost(spec, made.machine.Info(), made.size, spec.Demand.Max(spec.SandboxDemand))
		return err
	})
	if err != nil {
		return nil, "", err
	}
	if err := made.assign(spec, limit); err != nil {
		return nil, "", errors.Join(err, made.stop(context.WithoutCancel(ctx)))
	}
	return made.sandbox, made.machine.Vsock(), nil
}

// madeMachine is *machine.Machine.
type madeMachine interface {
	virtcontainers.Machine
	Vsock() string
	User() int
}

// assembled is a sandbox that was not assigned, with what its pod gets then.
type assembled struct {
	sandbox    *virtcontainers.Sandbox
	machine    madeMachine
	size       hypervisor.Size // the first
	share      virtcontainers.Share
	networking virtcontainers.NetworkOptions
}

// assemble makes a machine that does not run yet, and will be restored from what is
// saved, or boot. After an error nothing is left but the directory's content.
func assemble(ctx context.Context, spec Spec, saved *machine.Saved) (_ *assembled, err error) {
	token, err := newToken()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(spec.ShareDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the share's directory: %w", err)
	}
	shared, err := share.New(spec.ShareDir)
	if err != nil {
		return nil, err
	}
	if err := shareModules(spec.Config, shared); err != nil {
		return nil, errors.Join(err, shared.Close())
	}
	sizes := sizingOptions(spec)
	size := firstSize(spec, sizes)
	host, err := findHostNetwork(spec.HostNetwork)
	if err != nil {
		return nil, errors.Join(err, shared.Close())
	}
	networking, nics, err := networkOptions(spec, size)
	if err != nil {
		return nil, errors.Join(err, shared.Close())
	}
	if host != nil {
		networking.Fixed, networking.Keep = host.Request(), [][]byte{host.MAC}
	}
	made, err := machine.New(ctx, machine.Spec{
		ID: spec.ID, Dir: spec.Dir, ShareDir: spec.ShareDir, Token: token,
		Size: size, MaxSize: sizes.Policy.Max, NICs: nics, HostNetwork: host, Saved: saved, Config: spec.Config, Log: spec.Log,
	})
	if err != nil {
		return nil, errors.Join(err, closeTaps(networking.Spare), shared.Close())
	}
	patience := spec.Config.Agent.DialTimeout
	if saved != nil {
		patience = restoreTimeout(spec.Config)
	}
	sandbox := virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
		Machine: made, Token: token, Restored: saved != nil, Turns: turns(spec), BootTimeout: patience, Log: spec.Log,
	})
	return &assembled{sandbox: sandbox, machine: made, size: size, share: shared, networking: networking}, nil
}

// assign gives the sandbox to a pod, to whose limits on the host limit leads.
func (a *assembled) assign(spec Spec, limit func(hypervisor.Size, sizing.Demand) error) error {
	ceilings, err := limits.Ceilings(limits.System)
	if err != nil {
		return err
	}
	policies, err := guestPolicies(spec.Config)
	if err != nil {
		return err
	}
	sizes := sizingOptions(spec)
	sizes.Demand, sizes.LimitHost = spec.Demand.Max(spec.SandboxDemand), limit
	return a.sandbox.Assign(virtcontainers.Assignment{
		ID: spec.ID, Hostname: spec.Hostname, Share: a.share, Sizing: sizes, Network: a.networking,
		RelaySockets: !spec.Config.Runtime.DisableSocketRelay, User: a.machine.User(), Ceilings: ceilings,
		Modules: guestModules(spec.Config), SecurityModules: policies,
		AllowGuestExec: spec.Config.Agent.DebugConsole, IdleCacheSeconds: spec.Config.Agent.IdleCacheTimeout,
	})
}

// stop releases a sandbox that no pod has got.
func (a *assembled) stop(ctx context.Context) error {
	return errors.Join(a.sandbox.Stop(ctx), closeTaps(a.networking.Spare), a.share.Close())
}

func newToken() (string, error) {
	token := make([]byte, 16)
	if _, err := rand.Read(token); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	return hex.EncodeToString(token), nil
}
