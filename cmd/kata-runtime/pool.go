package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/supervisor"
)

// preparedCommand is the hidden first argument by which the program becomes a
// supervisor whose machine boots before there is a pod.
const preparedCommand = "prepared-supervisor"

// Descriptors of such a process.
const (
	preparedLockFD = 3 + iota
	preparedWaitFD
	preparedMountsFD
)

// machinePool is what a command that makes a pod has to do with prepared machines. The
// methods of a nil one do nothing. Nothing that goes wrong with the pool keeps a pod from
// its start.
type machinePool struct {
	pool     *pool.Pool
	settings *config.Config // without the pod's own
	fit      pool.Fit
	log      *slog.Logger

	// wait ends when the pod's first container has started, and nobody else has the
	// other end, running.
	wait, running *os.File
	once          sync.Once // done with refill
}

// openPool finds the pool of a configuration; nil: it has none.
func openPool(settings *config.Config, log *slog.Logger) *machinePool {
	if settings.Factory.PoolSize == 0 {
		return nil
	}
	p := &machinePool{pool: pool.Open(settings.Factory.Dir), settings: settings, log: log}
	var err error
	if p.fit, err = factory.Describe(pool.Supervisor, settings, "/proc/self/exe"); err == nil {
		p.wait, p.running, err = os.Pipe()
	}
	if err != nil {
		log.Warn("machines are not taken from the pool", "error", err)
		return nil
	}
	return p
}

// take makes a prepared machine's process the supervisor of a new pod. Without one,
// the client is nil, and the log tells why.
func (p *machinePool) take(ctx context.Context, boot supervisor.Boot, n *creation) (*supervisor.Client, error) {
	if p == nil {
		return nil, nil //nolint:nilnil // none
	}
	reason, err := factory.Misfit(p.settings, factory.Spec{
		Demand: boot.Demand, SandboxDemand: boot.SandboxDemand, HostNetwork: boot.HostNetwork, Config: boot.Config, Log: p.log,
	})
	for err == nil && reason == "" {
		var claim *pool.Claim
		if claim, reason, err = p.pool.Take(ctx, p.fit); claim == nil {
			break
		}
		n.supervisor = process{pid: claim.PID, start: claim.StartTime} // whose traces are this pod's
		client, takeErr := supervisor.Take(ctx, claim.Conn, boot, p.running)
		if takeErr == nil {
			p.log.Debug("machine from the pool", "machine", claim.Name, "supervisor_pid", claim.PID)
			return client, nil
		}
		var unfit *supervisor.UnfitError
		if !errors.As(takeErr, &unfit) {
			return nil, takeErr
		}
		n.supervisor = process{}
		p.log.Debug("a prepared machine was not taken", "machine", claim.Name, "error", takeErr)
		taken := unfit.Reason == pool.ReasonTaken
		if unfit.Err != nil { // it has not said no
			if taken, err = claim.GiveUp(ctx); err != nil {
				break
			}
		}
		if taken { // there may be others
			continue
		}
		reason = unfit.Reason
		n.supervisor = process{pid: claim.PID, start: claim.StartTime} // it may have begun
		err = n.removeLeft(ctx)
		n.supervisor = process{}
	}
	if err != nil {
		p.log.Warn("the pool cannot be used", "error", err)
		reason = pool.ReasonFailed
	}
	p.log.Debug("no machine from the pool: the pod starts cold", "reason", reason)
	if err := p.pool.Miss(ctx, pool.Supervisor, reason); err != nil {
		p.log.Warn("the pool does not count", "error", err)
	}
	return nil, nil //nolint:nilnil // none
}

// starting is for the supervisor to close when its first container has started; nil for
// none.
func (p *machinePool) starting() *os.File {
	if p == nil {
		return nil
	}
	return p.running
}

// launched lets go of what the supervisor has, or has not.
func (p *machinePool) launched() {
	if p != nil {
		p.running.Close()
	}
}

// refill starts, in the background, as many machines as the pool lacks. They wait for
// the pod to run, and then for an idle host. Once only.
func (p *machinePool) refill(ctx context.Context) {
	if p == nil {
		return
	}
	p.once.Do(func() {
		defer p.wait.Close()
		if _, err := fillPool(ctx, p.pool, p.fit, pool.Request{Config: p.settings}, p.wait); err != nil {
			p.log.Warn("the pool is not filled up", "error", err)
		}
	})
}

// fillPool starts as many machines as the pool lacks, which begin to boot when every
// other end of a pipe is closed.
func fillPool(ctx context.Context, machines *pool.Pool, fit pool.Fit, request pool.Request, wait *os.File) (int, error) {
	return machines.Fill(ctx, fit, request, request.Config.Factory.PoolSize, func(dir, name string, lock *os.File) (int, error) {
		cmd := exec.Command("/proc/self/exe") //nolint:noctx // it outlives this command
		cmd.Args = []string{"kata-runtime", preparedCommand, dir, name}
		return forkPrepared(cmd, lock, wait)
	})
}

// forkPrepared starts the process of a prepared machine, which shares nothing with this
// one, as forkSupervisor does.
func forkPrepared(cmd *exec.Cmd, lock, wait *os.File) (int, error) {
	// While it has this open, no other mount namespace is taken for it.
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return 0, fmt.Errorf("start the process of a machine: %w", err)
	}
	defer mounts.Close()
	cmd.Dir, cmd.Env = "/", supervisorEnvironment()
	cmd.ExtraFiles = []*os.File{lock, wait, mounts}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the process of a machine: %w", err)
	}
	pid := cmd.Process.Pid            // Release forgets it
	return pid, cmd.Process.Release() // it outlives this process
}

// runPrepared is the program as a supervisor whose machine boots before there is a pod.
func runPrepared(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "kata-runtime", preparedCommand, "is started by the other commands")
		return 1
	}
	if err := limits.Lift(); err != nil {
		fmt.Fprintln(os.Stderr, "kata-runtime:", err) // only those count that the caller has
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	slot, err := pool.Occupy(args[0], args[1], os.NewFile(preparedLockFD, "lock"))
	if err == nil {
		err = supervisor.RunPrepared(ctx, slot, os.NewFile(preparedWaitFD, "wait"))
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "kata-runtime:", err)
		return 1
	}
	return 0
}
