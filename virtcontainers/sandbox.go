package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/agent"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/loopback"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/share"
	"kata-runtime/virtcontainers/sockets"
)

// Errors, for errors.Is. The texts of the first three are runc's, for which
// container managers search.
var (
	// ErrNotFound: there is no container, or the container has no process, of this
	// name, or not any more.
	ErrNotFound = errors.New("container does not exist")
	// ErrExists: the name is taken.
	ErrExists = errors.New("container with given ID already exists")
	// ErrNotRunning: there is no process that the operation could act on.
	ErrNotRunning = errors.New("container not running")
	// ErrState: the container's status does not allow the operation.
	ErrState = errors.New("wrong state")
	// ErrLate: the guest did not answer in the time that it has for it.
	ErrLate = errors.New("the guest did not answer in time")
	// ErrMachineEnded: the virtual machine is gone.
	ErrMachineEnded = errors.New("the virtual machine has ended")
)

const (
	// callTimeout bounds a call of the agent that has nothing to wait for.
	// TCG on a loaded machine needs seconds for what KVM does in milliseconds.
	callTimeout = 60 * time.Second
	// copyTimeout is how much longer a container's creation may take that copies
	// the content of memory volumes.
	copyTimeout = 2 * time.Minute
	// destroyTimeout bounds the guest's farewell (flushing file systems),
	// after which the machine is stopped all the same.
	destroyTimeout = 5 * time.Second
)

// Share is the pod's shared directory, as *share.Dir implements it.
type Share interface {
	Add(container string, mounts []share.Mount) error
	Detach(container, name string) error
	Remove(container string) error
	Close() error
}

// SandboxOptions are what a sandbox is made of before it is known whose it will
// be.
type SandboxOptions struct {
	Machine Machine
	// Token is the one-time secret of the ready message, which the machine's
	// kernel parameters carry too.
	Token string
	// Restored tells that the machine does not boot, but goes on as a saved one: its
	// agent waits for the host, and says nothing first.
	Restored bool
	// Turns is where the machine waits for its turn to boot; nil: it does not wait.
	Turns Turns
	// BootTimeout bounds the time from the machine's start, when it has its turn, to the
	// agent's answer.
	BootTimeout time.Duration
	Log         *slog.Logger
}

// Sandbox is a pod: one machine and the containers in it.
type Sandbox struct {
	options SandboxOptions
	log     *slog.Logger
	watch   *stopwatch
	// loopbackToken is the secret of StartLoopback, which the agent is told.
	loopbackToken string

	// life ends when the machine is to end; everything that the sandbox does
	// in the background hangs on it, and background waits for all of it.
	life       context.Context //nolint:containedctx // the sandbox's own life, not a caller's
	end        context.CancelCauseFunc
	background sync.WaitGroup

	line    line
	booted  chan struct{} // closed when boot has succeeded or failed
	bootErr error         // written before booted is closed
	agent   *agent.Client // likewise; nil after a failure

	assigned   chan struct{}  // closed by Assign
	assignment Assignment     // written before assigned is closed, as what follows
	sockets    *sockets.Relay // nil without RelaySockets
	sizer      sizer

	ready    chan struct{} // closed when containers can be created, or never will
	readyErr error         // written before ready is closed

	devices *device.Manager

	streams atomic.Uint64 // how many were opened

	mu         sync.Mutex // guards what follows
	containers map[string]*Container
	started    bool               // Boot was called
	given      bool               // Assign was called
	stopped    bool               // Stop was called: nothing is assigned any more
	network    *network.Network   // nil before JoinNetwork, or without a network
	following  bool               // the guest's network follows the namespace's
	loopback   *loopback.Loopback // nil before StartLoopback
	// loopbackListener takes the guest's connections to it; nil before boot and
	// StartLoopback, whichever is first.
	loopbackListener net.Listener
	noLoopback       bool // the sandbox stops
	// loopbackServices are what the agent is to be told of by SetNetwork.
	loopbackServices []loopback.Service

	fixing sync.Mutex                  // guards fixed
	fixed  *protocol.SetNetworkRequest // what the agent was told of a network that never changes

	halting sync.Mutex // held while the machine is stopped

	stopping sync.Once
	stopErr  error
}

// NewSandbox makes a sandbox of a machine that was not started. Stop releases the
// machine, and what Assign has brought.
func NewSandbox(options SandboxOptions) *Sandbox {
	life, end := context.WithCancelCause(context.Background())
	return &Sandbox{
		options:       options,
		log:           options.Log,
		watch:         newStopwatch(),
		loopbackToken: loopback.NewToken(),
		life:          life,
		end:           end,
		booted:        make(chan struct{}),
		assigned:      make(chan struct{}),
		ready:         make(chan struct{}),
		devices:       device.New(options.Machine, device.Open),
		containers:    make(map[string]*Container),
	}
}

// Ended is closed when the machine is to end or has ended; the cause of the
// context tells why.
func (s *Sandbox) Ended() <-chan struct{} { return s.life.Done() }

// Guest is what the agent said of itself; nil before Booted has returned nil.
func (s *Sandbox) Guest() *protocol.HelloResponse {
	select {
	case <-s.booted:
		if s.agent != nil {
			return s.agent.Guest
		}
	default:
	}
	return nil
}

// Machine describes the VM.
func (s *Sandbox) Machine() hypervisor.Info { return s.options.Machine.Info() }

// Timings returns how long each stage has taken so far.
func (s *Sandbox) Timings() []Timing { return s.watch.all() }

// watchMachine turns the machine's end into the sandbox's, and the sandbox's
// into the machine's, whoever has ended it: nobody would see what goes on in a
// machine whose containers count as ended. A machine that lost only a part of
// itself is stopped too: streams of its guest would not end.
func (s *Sandbox) watchMachine() {
	err := s.options.Machine.Wait(s.life)
	if s.life.Err() == nil {
		cause := ErrMachineEnded
		if err != nil {
			cause = fmt.Errorf("%w: %w", ErrMachineEnded, err)
		}
		s.log.Warn("machine ended", "error", cause, "console", s.options.Machine.ConsoleTail())
		s.end(cause)
	}
	if err := s.stopMachine(context.Background()); err != nil {
		s.log.Warn("stop what is left of the machine", "error", err)
	}
}

// stopMachine stops the machine, or waits for who does so already: Stop and
// watchMachine come at the same time. A machine that has stopped is not harmed.
func (s *Sandbox) stopMachine(ctx context.Context) error {
	s.halting.Lock()
	defer s.halting.Unlock()
	return s.options.Machine.Stop(ctx)
}

// giveUp ends a sandbox whose guest cannot be worked with any longer, and with
// it the machine: see watchMachine.
func (s *Sandbox) giveUp(cause error) {
	if s.life.Err() == nil {
		s.log.Error("the guest cannot be worked with: its machine is stopped", "error", cause,
			"console", s.options.Machine.ConsoleTail())
	}
	s.end(cause)
}

// Container returns the container with this id, or ErrNotFound.
func (s *Sandbox) Container(id string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.containers[id]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("container %q: %w", id, ErrNotFound)
}

// Containers returns how many containers the sandbox has, in whatever state.
func (s *Sandbox) Containers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.containers)
}

// Stop ends the machine, and with it every container, and releases what the
// sandbox holds, in whatever state it is. Nothing that the guest does keeps it from
// that. Idempotent: later calls wait and return the same error.
func (s *Sandbox) Stop(ctx context.Context) error {
	s.stopping.Do(func() {
		s.mu.Lock()
		s.stopped = true
		s.mu.Unlock()
		booting := s.endGuest(ctx)
		s.end(ErrMachineEnded)
		errs := []error{s.stopMachine(ctx)}
		if booting {
			<-s.ready
			errs = append(errs, s.stopMachine(ctx)) // it may have started meanwhile
		}
		if s.agent != nil { // written before ready is closed, see endGuest
			errs = append(errs, s.agent.Close())
		}
		assignment, err := s.assignedTo()
		if err == nil && s.sockets != nil {
			s.sockets.Close()
		}
		errs = append(errs, s.stopLoopback())
		s.background.Wait()
		errs = append(errs, s.leaveNetwork())
		if err == nil {
			errs = append(errs, assignment.Share.Close())
		}
		s.stopErr = errors.Join(errs...)
	})
	return s.stopErr
}

// endGuest lets a healthy guest flush its file systems, and waits for a boot
// that is under way to give up. It tells whether the boot goes on all the same:
// then it waits for the machine.
func (s *Sandbox) endGuest(ctx context.Context) (booting bool) {
	s.mu.Lock()
	started := s.started
	s.mu.Unlock()
	if !started {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	select {
	case <-s.ready:
	default:
		s.end(ErrMachineEnded)
		select {
		case <-s.ready:
		case <-ctx.Done():
			return true
		}
	}
	if s.readyErr != nil || s.life.Err() != nil {
		return false
	}
	// A call that the guest does not take does not look at ctx.
	stop := context.AfterFunc(ctx, func() {
		s.end(ErrMachineEnded) // first: that is what other calls fail for
		s.agent.Close()
	})
	defer stop()
	if _, err := s.agent.DestroySandbox(ctx, &protocol.DestroySandboxRequest{}); err != nil {
		s.log.Warn("guest did not flush its file systems", "error", agentErr(err))
	}
	return false
}
