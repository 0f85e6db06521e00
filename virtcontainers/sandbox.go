package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/agent"
	"kata-runtime/virtcontainers/clock"
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

// SandboxOptions are what NewSandbox needs.
type SandboxOptions struct {
	ID       string
	Hostname string // of the pod; empty: each container's own
	Machine  Machine
	Share    Share
	// Token is the one-time secret of the ready message, which the machine's
	// kernel parameters carry too.
	Token string
	// BootTimeout bounds the time from the machine's start to the agent's
	// answer.
	BootTimeout time.Duration
	Sizing      SizingOptions
	Network     NetworkOptions
	// RelaySockets lets containers connect to the host's unix sockets that
	// their bind mounts show.
	RelaySockets bool
	// Ceilings are the host's, for the guest to have them at least.
	Ceilings []*protocol.CeilingValue
	Log      *slog.Logger
}

// Sandbox is a pod: one machine and the containers in it.
type Sandbox struct {
	options SandboxOptions
	log     *slog.Logger
	watch   *stopwatch
	sockets *sockets.Relay // nil without RelaySockets
	// socketPort is the one that the guest dials for sockets; boot writes and reads
	// it.
	socketPort uint32
	// loopbackToken is the secret of StartLoopback, which the agent is told.
	loopbackToken string

	// life ends when the machine is to end; everything that the sandbox does
	// in the background hangs on it, and background waits for all of it.
	life       context.Context //nolint:containedctx // the sandbox's own life, not a caller's
	end        context.CancelCauseFunc
	background sync.WaitGroup

	booted  chan struct{} // closed when boot has succeeded or failed
	bootErr error         // written before booted is closed
	devices *device.Manager
	sizer   sizer
	agent   *agent.Client // likewise

	mu         sync.Mutex // guards what follows
	containers map[string]*Container
	started    bool
	network    *network.Network   // nil before JoinNetwork, or without a network
	following  bool               // the guest's network follows the namespace's
	loopback   *loopback.Loopback // nil before StartLoopback
	// loopbackListener takes the guest's connections to it; nil before boot and
	// StartLoopback, whichever is first.
	loopbackListener hypervisor.Listener
	noLoopback       bool // the sandbox stops
	// loopbackServices are what the agent is to be told of by SetNetwork.
	loopbackServices []loopback.Service

	fixing sync.Mutex                  // guards fixed
	fixed  *protocol.SetNetworkRequest // what the agent was told of a network that never changes

	halting sync.Mutex // held while the machine is stopped

	stopping sync.Once
	stopErr  error
}

// NewSandbox makes a sandbox. Stop releases the machine and the share.
func NewSandbox(options SandboxOptions) *Sandbox {
	life, end := context.WithCancelCause(context.Background())
	var relay *sockets.Relay
	if options.RelaySockets {
		relay = sockets.New(options.Log)
	}
	return &Sandbox{
		sockets:    relay,
		options:    options,
		log:        options.Log,
		watch:      newStopwatch(),
		life:       life,
		end:        end,
		booted:     make(chan struct{}),
		containers: make(map[string]*Container),
		devices:    device.New(options.Machine, device.Open),
		sizer:      sizer{options: options.Sizing, resources: make(map[string]*specs.LinuxResources)},

		loopbackToken: loopback.NewToken(),
	}
}

// Start begins to boot the machine and returns at once: what follows goes side
// by side with the boot. Ready reports the outcome. Once only.
func (s *Sandbox) Start() {
	s.mu.Lock()
	s.started = true
	s.mu.Unlock()
	s.background.Go(func() {
		defer close(s.booted)
		s.bootErr = s.boot()
		if s.bootErr != nil {
			s.log.Error("sandbox did not boot", "error", s.bootErr)
			s.end(s.bootErr)
		}
	})
}

// Ready waits until the agent answers, and returns a *StageError when it never
// will.
func (s *Sandbox) Ready(ctx context.Context) error {
	select {
	case <-s.booted:
		return s.bootErr
	case <-ctx.Done():
		return fmt.Errorf("wait for the sandbox: %w", context.Cause(ctx))
	}
}

// Ended is closed when the machine is to end or has ended; the cause of the
// context tells why.
func (s *Sandbox) Ended() <-chan struct{} { return s.life.Done() }

// Guest is what the agent said of itself; nil before Ready has returned nil.
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

func (s *Sandbox) boot() error {
	ctx, cancel := context.WithTimeoutCause(s.life, s.options.BootTimeout,
		fmt.Errorf("the guest did not answer within %v (dial_timeout)", s.options.BootTimeout))
	defer cancel()
	machine := s.options.Machine

	ready := machine.Ready()
	defer ready.Close()
	if err := s.serveSockets(); err != nil {
		return &StageError{Stage: StagePrepare, Err: err}
	}
	done := s.watch.begin(StageStartVMM)
	err := machine.Start(ctx)
	done()
	if err != nil {
		return &StageError{Stage: StageStartVMM, Err: err}
	}
	s.background.Go(s.watchMachine)

	stage := s.watchConsole(ctx)
	started := s.watch.begin(StageStartAgent)
	if err := agent.AwaitReady(ctx, ready, s.options.Token); err != nil {
		return s.bootFailure(ctx, stage(), err)
	}
	if err := s.connect(ctx); err != nil {
		return s.bootFailure(ctx, StageStartAgent, err)
	}
	started()
	s.background.Go(s.keepClock)
	s.background.Go(s.dispatchOOM)
	return nil
}

// keepClock sets the guest's clock after each jump of the host's.
func (s *Sandbox) keepClock() {
	err := clock.Watch(s.life, func(ctx context.Context) {
		ctx, cancel := s.call(ctx)
		defer cancel()
		if _, err := s.agent.SetClock(ctx, &protocol.SetClockRequest{UnixNanos: time.Now().UnixNano()}); err != nil {
			s.log.Warn("guest's clock was not corrected", "error", plain(err))
		}
	})
	if err != nil {
		s.log.Warn("guest's clock will not follow the host's", "error", err)
	}
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

func (s *Sandbox) connect(ctx context.Context) error {
	client, err := agent.Connect(ctx, s.options.Machine)
	if err != nil {
		return plain(err)
	}
	stop := context.AfterFunc(ctx, func() { client.Close() }) // a call that the guest does not take does not look at ctx
	request := &protocol.CreateSandboxRequest{
		SandboxId:      s.options.ID,
		Hostname:       s.options.Hostname,
		ClockUnixNanos: time.Now().UnixNano(),
		Shares:         []*protocol.Share{s.options.Machine.Share()},
		KeepNics:       s.options.Network.Keep,
		Ceilings:       s.options.Ceilings,
	}
	if s.sockets != nil {
		request.SocketPort, request.SocketToken = s.socketPort, s.sockets.Token()
	}
	s.mu.Lock()
	loopback, err := s.listenLoopback()
	s.mu.Unlock()
	if err != nil {
		stop()
		return errors.Join(err, client.Close())
	}
	request.LoopbackPort, request.LoopbackToken = loopback.GuestPort(), s.loopbackToken
	_, err = client.CreateSandbox(ctx, request)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		client.Close()
		return fmt.Errorf("set up the guest: %w", plain(err))
	}
	s.agent = client
	return nil
}

// bootFailure prefers the machine's own end to the error that it caused.
func (s *Sandbox) bootFailure(ctx context.Context, stage Stage, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	console := s.options.Machine.ConsoleTail()
	if stage == StageBootKernel && console == "" && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w; the guest's kernel has said nothing (kernel_params = \"debug\" lets it tell all that it does)", err)
	}
	return &StageError{Stage: stage, Err: err, Console: console}
}

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
// sandbox holds. Nothing that the guest does keeps it from that. Idempotent:
// later calls wait and return the same error.
func (s *Sandbox) Stop(ctx context.Context) error {
	s.stopping.Do(func() {
		booting := s.farewell(ctx)
		s.end(ErrMachineEnded)
		errs := []error{s.stopMachine(ctx)}
		if booting {
			<-s.booted
			errs = append(errs, s.stopMachine(ctx)) // it may have started meanwhile
		}
		if s.agent != nil { // written before booted is closed, see farewell
			errs = append(errs, s.agent.Close())
		}
		if s.sockets != nil {
			s.sockets.Close()
		}
		errs = append(errs, s.stopLoopback())
		s.background.Wait()
		errs = append(errs, s.leaveNetwork(), s.options.Share.Close())
		s.stopErr = errors.Join(errs...)
	})
	return s.stopErr
}

// farewell lets a healthy guest flush its file systems, and waits for a boot
// that is under way to give up. It tells whether the boot goes on all the same:
// then it waits for the machine.
func (s *Sandbox) farewell(ctx context.Context) (booting bool) {
	s.mu.Lock()
	started := s.started
	s.mu.Unlock()
	if !started {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	select {
	case <-s.booted:
	default:
		s.end(ErrMachineEnded)
		select {
		case <-s.booted:
		case <-ctx.Done():
			return true
		}
	}
	if s.agent == nil || s.life.Err() != nil {
		return false
	}
	// A call that the guest does not take does not look at ctx.
	stop := context.AfterFunc(ctx, func() {
		s.end(ErrMachineEnded) // first: that is what other calls fail for
		s.agent.Close()
	})
	defer stop()
	if _, err := s.agent.DestroySandbox(ctx, &protocol.DestroySandboxRequest{}); err != nil {
		s.log.Warn("guest did not flush its file systems", "error", plain(err))
	}
	return false
}
