package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/cmdline"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/store"
)

// RunPrepared is Run for a supervisor whose machine boots before there is a pod for it.
// It waits in its place of the pool for a command that takes it, and is the pod's
// supervisor from then on: with the same first message, and the same end. wait is that
// of factory.Hold.
func RunPrepared(ctx context.Context, slot *pool.Slot, wait *os.File) error {
	var first *channel.Conn
	var boot Boot
	var starting *os.File
	prepared, err := factory.Hold(ctx, slot, wait, func(p *factory.Prepared, conn *channel.Conn) bool {
		var err error
		if boot, starting, err = receiveBoot(conn); err != nil {
			return false // who has connected is gone
		}
		refusal := considerBoot(ctx, slot, p, boot)
		if refusal == nil {
			first = conn
			return true
		}
		closeFile(starting)
		_ = conn.Send(refusal) // or the command starts another one all the same
		return false
	})
	if err != nil {
		return err
	}
	_ = cmdline.Set([]string{"kata-runtime", "supervisor", boot.ID}) // for people alone
	if err := prepared.Adopt(boot.Caller); err != nil {
		_ = first.Send(Ready{Error: err.Error(), Unfit: pool.ReasonFailed}) // likewise
		return errors.Join(err, prepared.Stop(context.WithoutCancel(ctx)))
	}
	err = runPod(ctx, first, boot, starting, prepared.NewSandbox)
	return errors.Join(err, prepared.Stop(context.WithoutCancel(ctx)))
}

// considerBoot tells why a pod cannot have the machine; otherwise it has it.
func considerBoot(ctx context.Context, slot *pool.Slot, p *factory.Prepared, boot Boot) *Ready {
	if here, err := directoryAt(boot.Root); err != nil || here != boot.Directory {
		return &Ready{Unfit: pool.ReasonDirectory}
	}
	states, err := store.Open(boot.Root)
	if err == nil {
		if _, err := states.Lookup(boot.ID); err == nil { // before a machine is lost for it
			return &Ready{Exists: true, Error: fmt.Sprintf("%v: %s", virtcontainers.ErrExists, boot.ID)}
		}
	}
	reason, err := p.Misfit(factory.Spec{
		Demand: boot.Demand, SandboxDemand: boot.SandboxDemand, HostNetwork: boot.HostNetwork, Config: boot.Config,
		Log: slog.New(slog.DiscardHandler),
	})
	if err == nil && reason == "" {
		err = slot.Leave(ctx, boot.Caller)
	}
	switch {
	case errors.Is(err, pool.ErrDiscarded):
		return &Ready{Unfit: pool.ReasonTaken}
	case err != nil:
		return &Ready{Error: err.Error(), Unfit: pool.ReasonFailed}
	case reason != "":
		return &Ready{Unfit: reason}
	default:
		return nil
	}
}

// UnfitError says that a prepared supervisor is not the pod's, which can have another
// one.
type UnfitError struct {
	Reason pool.Reason
	Err    error // nil: the reason says all
}

// Error implements error.
func (e *UnfitError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the prepared machine cannot be taken (%s): %v", e.Reason, e.Err)
	}
	return fmt.Sprintf("the prepared machine cannot be taken (%s)", e.Reason)
}

// Unwrap returns the cause.
func (e *UnfitError) Unwrap() error { return e.Err }

// takeTimeout bounds how long a process may take to become a pod's supervisor: it has its
// machine, and does not wait for the guest.
const takeTimeout = 20 * time.Second

// Take makes the process at the other end of a connection the supervisor of a new pod.
// It is Launch for a process that is there. An *UnfitError says that nothing has become
// of it; a process that has not ended, and was not refused, is to be killed.
func Take(ctx context.Context, conn *net.UnixConn, boot Boot, starting *os.File) (*Client, error) {
	c := &Client{channel: channel.FromConn(conn), launched: true}
	if err := os.MkdirAll(boot.Root, 0o700); err != nil {
		c.Close()
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	var err error
	boot.Caller = os.Getpid()
	if boot.Directory, err = directoryAt(boot.Root); err == nil {
		err = c.channel.SetDeadline(time.Now().Add(takeTimeout))
	}
	if err == nil {
		err = c.boot(ctx, boot, starting)
	}
	if err == nil {
		err = c.channel.SetDeadline(time.Time{})
	}
	if err != nil {
		c.Close()
		switch {
		case errors.Is(err, ErrGone):
			err = &UnfitError{Reason: pool.ReasonDied, Err: err}
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
			err = &UnfitError{Reason: pool.ReasonFailed, Err: fmt.Errorf("no answer within %v: %w", takeTimeout, err)}
		}
		return nil, err
	}
	return c, nil
}
