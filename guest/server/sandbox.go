package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/ceilings"
	"kata-runtime/guest/console"
	"kata-runtime/guest/container"
	"kata-runtime/guest/hotplug"
	"kata-runtime/guest/locks"
	"kata-runtime/guest/loopback"
	"kata-runtime/guest/lsm"
	"kata-runtime/guest/modules"
	"kata-runtime/guest/notify"
	"kata-runtime/guest/protocol"
	"kata-runtime/guest/sockets"
	"kata-runtime/guest/storage"
)

// errSandboxState is wrapped by errors of calls that come out of order.
var errSandboxState = errors.New("wrong state of the sandbox")

// sandbox implements protocol.AgentService; there is one for all connections.
type sandbox struct {
	log      *slog.Logger
	version  string
	runtime  *container.Runtime
	sockets  *sockets.Relay
	loopback *loopback.Services
	network  Network
	console  *console.Console
	stir     func(entropy []byte) error // stir, but in tests

	mu      sync.Mutex // guards what follows
	created bool
	shares  []string // mount points, in order
	keepers []keeper // of the guest's memory, while there are containers
	dying   []*locks.Releaser
	modules *modules.Service // nil when none are loaded on demand
	stop    func()           // ends those that run; nil when none does
}

// keeper looks after the guest's memory until ctx ends.
type keeper interface {
	Run(ctx context.Context)
}

var _ protocol.AgentService = (*sandbox)(nil)

func newSandbox(cfg Config, runtime *container.Runtime, relay *sockets.Relay) *sandbox {
	return &sandbox{
		log: cfg.Log, version: cfg.Version, runtime: runtime, sockets: relay, network: cfg.Network, stir: stir,
	}
}

// close ends the goroutines of the sandbox.
func (s *sandbox) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
	if s.modules != nil {
		if err := s.modules.Close(); err != nil {
			s.log.Warn("modules on demand", "error", err)
		}
		s.modules = nil
	}
}

// keepMemory starts the keepers with the first container; a guest that waits for its
// pod has nothing to look at.
func (s *sandbox) keepMemory(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // It outlives the call.
	var running sync.WaitGroup
	for _, keeper := range s.keepers {
		running.Go(func() { keeper.Run(ctx) })
	}
	s.stop = func() {
		cancel()
		running.Wait()
	}
}

// Hello settles the protocol version.
func (s *sandbox) Hello(_ context.Context, req *protocol.HelloRequest) (*protocol.HelloResponse, error) {
	if req.GetVersion() != protocol.Version {
		return nil, status.Errorf(codes.FailedPrecondition,
			"the host speaks version %d of the agent protocol, the guest's image version %d", req.GetVersion(), protocol.Version)
	}
	return describeGuest(s.version)
}

// CreateSandbox sets the clock, the host name and kernel parameters, stirs the
// random generator, and mounts the shares.
func (s *sandbox) CreateSandbox(ctx context.Context, req *protocol.CreateSandboxRequest) (*protocol.CreateSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.created {
		return nil, fmt.Errorf("create sandbox %q: %w: it was created before", req.GetSandboxId(), errSandboxState)
	}
	if req.GetRestored() && len(req.GetEntropy()) == 0 {
		// Its random generator is in the state that those of all copies are in.
		return nil, fmt.Errorf("create sandbox: %w: a restored guest was given no entropy", errSandboxState)
	}
	if err := setClock(req.GetClockUnixNanos()); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	if err := s.stir(req.GetEntropy()); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	if name := req.GetHostname(); name != "" {
		if err := s.runtime.SetHostname(name); err != nil {
			return nil, fmt.Errorf("create sandbox: %w", err)
		}
	}
	// Most programs do with less than the host has: only one that needs more
	// shall fail.
	if err := ceilings.Raise("/proc/sys", req.GetCeilings()); errors.Is(err, ceilings.ErrInvalid) {
		return nil, fmt.Errorf("create sandbox: %w", err)
	} else if err != nil {
		s.log.Warn("kernel parameters are lower than the host's", "error", err)
	}
	if err := s.awaitPlugged(ctx, req.GetPluggedNics()); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	if err := s.network.Park(req.GetKeepNics()); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	s.sockets.Configure(req.GetSocketPort(), req.GetSocketToken())
	s.loopback.Configure(req.GetLoopbackPort(), req.GetLoopbackToken())
	limit := int64(math.MaxInt64)
	for _, share := range req.GetShares() {
		if err := mountShare(ctx, share, req.GetRestored()); err != nil {
			return nil, fmt.Errorf("create sandbox: %w", err)
		}
		s.shares = append(s.shares, share.GetMountPoint())
		if share.GetFstype() == "virtiofs" {
			limit = min(limit, cmp.Or(int64(share.GetFileLimit()), storage.DefaultFileLimit))
			s.repeatChanges(share.GetMountPoint())
			releaser := locks.New(share.GetMountPoint())
			s.dying = append(s.dying, releaser)
			s.keepers = append(s.keepers, releaser)
		}
	}
	if limit != math.MaxInt64 {
		s.keepers = append(s.keepers, storage.NewLimiter(s.log, limit))
	}
	if seconds := req.GetIdleCacheSeconds(); seconds > 0 {
		s.keepers = append(s.keepers, storage.NewIdleDropper(s.log, time.Duration(seconds)*time.Second))
	}
	if m := req.GetModules(); m != nil {
		var err error
		if s.modules, err = modules.Start(s.log, modules.Options{Directory: m.GetDirectory(), Deny: m.GetDeny(), Load: m.GetLoad()}); err != nil {
			return nil, fmt.Errorf("create sandbox: %w", err)
		}
	}
	if err := s.secure(req.GetSecurityModules()); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	if req.GetAllowGuestExec() {
		s.console.Allow()
	}
	s.created = true
	return &protocol.CreateSandboxResponse{}, nil
}

// secure gives the kernel its policies, and the containers to come their labels.
func (s *sandbox) secure(modules *protocol.SecurityModules) error {
	if modules == nil {
		return nil
	}
	if err := lsm.Load(modules); err != nil {
		return err
	}
	s.runtime.ApplyLabels(container.Labels{AppArmor: modules.GetApparmor() != nil, SELinux: modules.GetSelinux() != nil})
	return nil
}

// repeatChanges has inotify tell of what others change in a share. s is locked.
func (s *sandbox) repeatChanges(share string) {
	repeater, err := notify.Open(s.log, share)
	if err != nil {
		s.log.Warn("what others change in volumes is no event of inotify", "error", err)
	}
	if repeater != nil {
		s.keepers = append(s.keepers, repeater)
		s.runtime.PinSources(share)
	}
}

// Rehearse lets the guest's first container be one that nobody waits for.
func (s *sandbox) Rehearse(ctx context.Context, _ *protocol.Empty) (*protocol.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.created {
		return nil, fmt.Errorf("rehearse: %w: it was created before", errSandboxState)
	}
	if err := s.runtime.Rehearse(ctx); err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // the machine may wait for long
	return &protocol.Empty{}, nil
}

// mountShare mounts a share whose device, when it is plugged in, may be on its way.
func mountShare(ctx context.Context, share *protocol.Share, plugged bool) error {
	if plugged {
		ctx, cancel := context.WithTimeout(ctx, nicTimeout)
		defer cancel()
		return hotplug.Await(ctx, func() (bool, error) {
			err := storage.MountShare(share)
			if errors.Is(err, unix.EINVAL) { // the kernel has no such tag yet
				return false, nil
			}
			return err == nil, err
		})
	}
	return storage.MountShare(share)
}

// DestroySandbox removes every container and flushes the shares: what containers have
// written is the host's then.
func (s *sandbox) DestroySandbox(ctx context.Context, _ *protocol.DestroySandboxRequest) (*protocol.Empty, error) {
	err := s.runtime.RemoveAll(ctx)
	s.mu.Lock()
	shares := s.shares
	s.mu.Unlock()
	err = errors.Join(err, storage.FlushShares(shares...))
	return &protocol.Empty{}, err
}

// SetClock sets the guest's real-time clock.
func (s *sandbox) SetClock(_ context.Context, req *protocol.SetClockRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, setClock(req.GetUnixNanos())
}

func setClock(nanos int64) error {
	if nanos == 0 {
		return nil
	}
	ts := unix.NsecToTimespec(nanos)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set clock to %v: %w", time.Unix(0, nanos).UTC(), err)
	}
	return nil
}

// NextOOM waits for the next container that lacked memory.
func (s *sandbox) NextOOM(ctx context.Context, _ *protocol.Empty) (*protocol.OOMEvent, error) {
	id, err := s.runtime.NextOOM(ctx)
	if err != nil {
		return nil, err
	}
	return &protocol.OOMEvent{ContainerId: id}, nil
}
