package virtcontainers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/clock"
	"kata-runtime/virtcontainers/sockets"
)

// Assignment is all that a sandbox learns of the pod that it is for.
type Assignment struct {
	ID       string
	Hostname string // empty: each container's own
	Share    Share
	Network  NetworkOptions
	Sizing   SizingOptions
	// Ceilings are the host's, for the guest to have them at least.
	Ceilings []*protocol.CeilingValue
	// RelaySockets lets containers connect to the host's unix sockets that
	// their bind mounts show.
	RelaySockets bool
	// User is one of the host that only this pod has, for what the kernel counts for
	// users; 0: there is none.
	User int
	// Modules are those of the guest's kernel that are loaded on demand; nil for none.
	Modules *protocol.Modules
	// SecurityModules are the policies of the guest's kernel; nil: labels have no effect.
	SecurityModules *protocol.SecurityModules
	// AllowGuestExec lets processes be added to the guest itself, see ExecGuest.
	AllowGuestExec bool
	// IdleCacheSeconds is after how long a guest that does nothing drops what it has of
	// files in its memory; 0: never.
	IdleCacheSeconds int
}

// entropySize is how many bytes of the host's randomness a guest is given: as much
// as its generator's key and nonce have.
const entropySize = 64

// errUnassigned wraps ErrState.
var errUnassigned = fmt.Errorf("%w: the machine belongs to no pod yet", ErrState)

// Assign gives the sandbox to a pod, before, while or after it boots, and returns
// at once: the guest is set up as soon as both are there, see Ready. From then on
// the assignment's Share and Spare taps are the sandbox's, which Stop closes.
// Unless Assign returns an error: then they stay the caller's. It wraps ErrState
// when it was called before, and ErrMachineEnded when the sandbox has ended.
func (s *Sandbox) Assign(assignment Assignment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.given:
		return fmt.Errorf("assign the machine to pod %s: %w: it belongs to pod %s", assignment.ID, ErrState, s.assignment.ID)
	case s.life.Err() != nil:
		cause := context.Cause(s.life)
		if _, ok := errors.AsType[*StageError](cause); ok {
			return &notBootedError{cause}
		}
		return fmt.Errorf("assign the machine to pod %s: %w", assignment.ID, cause)
	case s.stopped:
		return fmt.Errorf("assign the machine to pod %s: %w", assignment.ID, ErrMachineEnded)
	}
	s.given = true
	s.assignment = assignment
	s.sizer = sizer{options: assignment.Sizing, resources: make(map[string]*specs.LinuxResources)}
	if assignment.RelaySockets {
		s.sockets = sockets.New(s.log, assignment.User)
	}
	close(s.assigned)
	return nil
}

// notBootedError is why a machine has never come so far as to be assigned.
type notBootedError struct{ cause error }

func (e *notBootedError) Error() string   { return e.cause.Error() }
func (e *notBootedError) Unwrap() []error { return []error{ErrMachineEnded, e.cause} }

// assignedTo returns what Assign was given. It wraps ErrState before.
func (s *Sandbox) assignedTo() (*Assignment, error) {
	select {
	case <-s.assigned:
		return &s.assignment, nil
	default:
		return nil, errUnassigned
	}
}

// setUp waits for the assignment of the booted machine and tells the agent of it,
// in one call.
func (s *Sandbox) setUp() error {
	select {
	case <-s.assigned:
	case <-s.life.Done():
		return &StageError{Stage: StageAssign, Err: context.Cause(s.life)}
	}
	done := s.watch.begin(StageAssign)
	defer done()
	ctx, cancel := s.call(s.life)
	defer cancel()
	request, err := s.describePod()
	if err != nil {
		return s.bootFailure(ctx, StageAssign, err)
	}
	// A call that the guest does not take does not look at ctx.
	stop := context.AfterFunc(ctx, func() { s.agent.Close() })
	_, err = s.agent.CreateSandbox(ctx, request)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return s.bootFailure(ctx, StageAssign, fmt.Errorf("set up the guest: %w", agentErr(err)))
	}
	s.background.Go(s.keepClock)
	s.background.Go(s.dispatchOOM)
	return nil
}

// describePod makes the agent's view of the assignment, and listens on the ports
// that it names.
func (s *Sandbox) describePod() (*protocol.CreateSandboxRequest, error) {
	entropy := make([]byte, entropySize)
	if _, err := rand.Read(entropy); err != nil {
		return nil, fmt.Errorf("draw the guest's entropy: %w", err)
	}
	socketPort, err := s.serveSockets()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	loopback, err := s.listenLoopback()
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	request := &protocol.CreateSandboxRequest{
		SandboxId:     s.assignment.ID,
		Hostname:      s.assignment.Hostname,
		Shares:        []*protocol.Share{s.options.Machine.Share()},
		KeepNics:      s.assignment.Network.Keep,
		Ceilings:      s.assignment.Ceilings,
		LoopbackPort:  hypervisor.DialedPort(loopback),
		LoopbackToken: s.loopbackToken,
		Entropy:       entropy,
		Modules:       s.assignment.Modules,

		SecurityModules:  s.assignment.SecurityModules,
		AllowGuestExec:   s.assignment.AllowGuestExec,
		IdleCacheSeconds: uint32(max(0, s.assignment.IdleCacheSeconds)), //nolint:gosec // a day at most
	}
	if s.options.Restored {
		request.Restored = true
		for _, tap := range s.assignment.Network.Spare {
			request.PluggedNics = append(request.PluggedNics, tap.MAC)
		}
	}
	if s.sockets != nil {
		request.SocketPort, request.SocketToken = socketPort, s.sockets.Token()
	}
	request.ClockUnixNanos = time.Now().UnixNano() // last: it gets old
	return request, nil
}

// keepClock sets the guest's clock after each jump of the host's.
func (s *Sandbox) keepClock() {
	err := clock.Watch(s.life, func(ctx context.Context) {
		ctx, cancel := s.call(ctx)
		defer cancel()
		if _, err := s.agent.SetClock(ctx, &protocol.SetClockRequest{UnixNanos: time.Now().UnixNano()}); err != nil {
			s.log.Warn("guest's clock was not corrected", "error", agentErr(err))
		}
	})
	if err != nil {
		s.log.Warn("guest's clock will not follow the host's", "error", err)
	}
}
