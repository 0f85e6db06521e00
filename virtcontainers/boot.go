package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/agent"
)

// Boot begins to boot the machine and returns at once: what follows goes side by
// side with the boot. Booted reports the outcome, and Ready also that of Assign,
// before or after which it may be called. Once only.
func (s *Sandbox) Boot() {
	s.mu.Lock()
	s.started = true
	s.mu.Unlock()
	s.background.Go(func() {
		defer close(s.ready)
		s.readyErr = s.boot()
		s.bootErr = s.readyErr
		close(s.booted)
		if s.readyErr == nil {
			s.readyErr = s.setUp()
		}
		if s.readyErr != nil {
			if s.life.Err() == nil {
				s.log.Error("sandbox did not start", "error", s.readyErr)
			}
			s.end(s.readyErr)
		}
	})
}

// Booted waits until the agent answers, for whomever the machine will be, and
// returns a *StageError when it never will.
func (s *Sandbox) Booted(ctx context.Context) error {
	select {
	case <-s.booted:
		return s.bootErr
	case <-ctx.Done():
		return fmt.Errorf("wait for the sandbox's boot: %w", s.line.explain(context.Cause(ctx)))
	}
}

// Ready waits until the sandbox has booted, was assigned, and the guest is set up
// for its pod. It returns a *StageError when that never comes.
func (s *Sandbox) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return s.readyErr
	case <-ctx.Done():
		return fmt.Errorf("wait for the sandbox: %w", s.line.explain(context.Cause(ctx)))
	}
}

// Rehearse lets the booted guest do what it does for a pod's first container, so that
// the first one takes no longer than others. It is called before Assign, and fails
// afterwards. It returns a *StageError.
func (s *Sandbox) Rehearse(ctx context.Context) error {
	if err := s.Booted(ctx); err != nil {
		return err
	}
	done := s.watch.begin(StageRehearse)
	defer done()
	ctx, cancel := s.call(ctx)
	defer cancel()
	// A call that the guest does not take does not look at ctx.
	stop := context.AfterFunc(ctx, func() { s.agent.Close() })
	_, err := s.agent.Rehearse(ctx, &protocol.Empty{})
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return s.callFailure(StageRehearse, err)
	}
	return nil
}

// boot starts the machine and greets its agent. It knows nothing of a pod.
func (s *Sandbox) boot() error {
	machine := s.options.Machine
	ready := machine.Ready()
	defer ready.Close()
	over, err := s.awaitTurn()
	if err != nil {
		return &StageError{Stage: StageTurn, Err: err}
	}
	defer over()
	late := &lateError{after: s.options.BootTimeout, setting: "dial_timeout"}
	if s.options.Restored { // it may boot afterwards
		late.setting = "a part of dial_timeout"
	}
	ctx, cancel := context.WithTimeoutCause(s.life, s.options.BootTimeout, late)
	defer cancel()
	done := s.watch.begin(StageStartVMM)
	err = machine.Start(ctx)
	done()
	if err != nil {
		// The driver may know it by a process that was killed for it.
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return &StageError{Stage: StageStartVMM, Err: err}
	}
	s.background.Go(s.watchMachine)
	if s.options.Restored {
		defer s.watch.begin(StageStartAgent)()
		return s.greet(ctx)
	}

	stage := s.watchConsole(ctx)
	defer s.watch.begin(StageStartAgent)()
	if err := agent.AwaitReady(ctx, ready, s.options.Token); err != nil {
		if ctx.Err() == nil {
			s.awaitNews(newsTimeout)
		}
		return s.bootFailure(ctx, stage(), err)
	}
	return s.greet(ctx)
}

// lateError is the end of a boot that takes longer than it may. It is an ErrLate.
type lateError struct {
	after time.Duration
	// setting is the one that says so.
	setting string
}

func (e *lateError) Error() string {
	return fmt.Sprintf("the guest did not answer within %v (%s)", e.after, e.setting)
}

func (*lateError) Is(target error) bool { return target == ErrLate }

// greet asks the agent who it is.
func (s *Sandbox) greet(ctx context.Context) error {
	client, err := agent.Connect(ctx, s.options.Machine)
	if err != nil {
		if _, network := errors.AsType[*net.OpError](err); ctx.Err() == nil && (network || errors.Is(err, ttrpc.ErrClosed)) {
			patience := newsTimeout
			if s.options.Restored { // whoever waits boots another one then
				patience = reasonTimeout
			}
			s.awaitNews(patience)
		}
		return s.bootFailure(ctx, StageStartAgent, agentErr(err))
	}
	s.agent = client
	return nil
}

// watchConsole waits in the background for the line that the guest's PID 1
// writes first. The returned function tells, by whether it was seen, which
// stage the boot is in.
func (s *Sandbox) watchConsole(ctx context.Context) func() Stage {
	done := s.watch.begin(StageBootKernel)
	var seen atomic.Bool
	s.background.Go(func() {
		if err := s.options.Machine.AwaitConsole(ctx, protocol.InitMarker); err == nil {
			seen.Store(true)
			done()
		}
	})
	return func() Stage {
		if seen.Load() {
			return StageStartAgent
		}
		return StageBootKernel
	}
}

// bootFailure prefers the machine's own end to the error that it caused.
func (s *Sandbox) bootFailure(ctx context.Context, stage Stage, err error) error {
	switch {
	case s.life.Err() != nil: // a moment before ctx, which ends with it
		err = context.Cause(s.life) //nolint:contextcheck // the machine's end is the reason
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	console := s.options.Machine.ConsoleTail()
	// A VMM that ends, or a part of it, is no matter of the guest's.
	_, vmm := errors.AsType[*hypervisor.ExitError](err)
	if stage == StageBootKernel && console == "" && !vmm && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w; the guest's kernel has said nothing (kernel_params = \"debug\" lets it tell all that it does)", err)
	}
	return &StageError{Stage: stage, Err: err, Console: console}
}
