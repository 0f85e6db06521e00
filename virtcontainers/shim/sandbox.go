package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/architecture"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/shim/podconfig"
	"kata-runtime/virtcontainers/shim/stats"
)

// What containerd calls a sandbox's states, after CRI's PodSandboxState.
const (
	stateReady    = "SANDBOX_READY"
	stateNotReady = "SANDBOX_NOTREADY"
)

// CreateSandbox implements the Sandbox API: it makes a pod without a container,
// whose machine begins to boot.
func (s *service) CreateSandbox(ctx context.Context, request *sandboxapi.CreateSandboxRequest) (*sandboxapi.CreateSandboxResponse, error) {
	if request.GetSandboxID() != s.options.ID {
		return nil, fmt.Errorf("%w: this shim was started for the sandbox %q, not %q", errdefs.ErrInvalidArgument, s.options.ID, request.GetSandboxID())
	}
	if err := oci.ValidateID(request.GetSandboxID()); err != nil {
		return nil, invalid(err)
	}
	config, err := podconfig.Decode(request.GetOptions())
	if err != nil {
		return nil, err
	}
	s.booting.Lock()
	defer s.booting.Unlock()
	if h := s.pod(); h != nil {
		return nil, fmt.Errorf("sandbox %q: %w", h.id, virtcontainers.ErrExists)
	}
	h, err := s.newSandbox(ctx, request, config)
	s.mu.Lock()
	s.home, s.used = h, true
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.background.Go(func() {
		<-h.sandbox.Ended()
		h.sandboxed.endedAt = time.Now()
		close(h.sandboxed.ended)
	})
	return &sandboxapi.CreateSandboxResponse{}, nil
}

// newSandbox makes the pod of a sandbox and connects it with its network.
func (s *service) newSandbox(ctx context.Context, request *sandboxapi.CreateSandboxRequest, config *podconfig.PodSandboxConfig) (*home, error) {
	settings, err := LoadConfig(ctx, s.options.Runtime)
	if err != nil {
		return nil, err
	}
	annotations := podAnnotations(request, config)
	if settings, err = settings.ForPod(annotations); err != nil {
		return nil, invalid(err)
	}
	wanted, _, err := architecture.Annotated(annotations)
	if err != nil {
		return nil, invalid(err)
	}
	if settings, err = forArchitecture(settings, wanted); err != nil {
		return nil, err
	}
	var p plan
	var joined *network.Namespace
	err = s.seeingHost(func() (err error) {
		p, joined, err = planSandbox(request, config, settings, s.options.Runtime.SystemdCgroup)
		return err
	})
	if err != nil {
		return nil, invalid(err)
	}
	h, err := s.newHome(ctx, p, true)
	if err != nil {
		if joined != nil {
			err = errors.Join(err, joined.Close())
		}
		return nil, err
	}
	h.sandboxed = &sandboxed{
		createdAt: time.Now(), plan: p, needsPause: needsPause(config), sysctls: config.GetLinux().GetSysctls(), ended: make(chan struct{}),
	}
	err = h.furnish(config.GetDnsConfig())
	if err == nil {
		err = h.joinNetwork(joined)
	} else if joined != nil {
		err = errors.Join(err, joined.Close())
	}
	if err != nil {
		return nil, errors.Join(err, h.close(context.WithoutCancel(ctx)))
	}
	return h, nil
}

// joinNetwork connects a pod that has no first container with the namespace that it
// was given, which it takes over.
func (h *home) joinNetwork(given *network.Namespace) error {
	namespace, err := h.network(given)
	if err != nil {
		return err
	}
	return h.pod.JoinNetwork(namespace)
}

// sandboxOf finds the pod that CreateSandbox has made.
func (s *service) sandboxOf(id string) (*home, error) {
	h := s.pod()
	if h == nil || h.id != id || h.sandboxed == nil {
		return nil, fmt.Errorf("sandbox %q: %w", id, errdefs.ErrNotFound)
	}
	return h, nil
}

// StartSandbox implements the Sandbox API: it waits until containers can be
// created, and starts the pod's pause process, if it needs one.
func (s *service) StartSandbox(ctx context.Context, request *sandboxapi.StartSandboxRequest) (*sandboxapi.StartSandboxResponse, error) {
	h, err := s.sandboxOf(request.GetSandboxID())
	if err != nil {
		return nil, err
	}
	if err := h.sandbox.Ready(ctx); err != nil {
		return nil, err
	}
	s.booting.Lock()
	defer s.booting.Unlock()
	select {
	case <-h.sandbox.Ended():
		return nil, fmt.Errorf("sandbox %q: %w", h.id, virtcontainers.ErrMachineEnded)
	default:
	}
	if h.sandboxed.needsPause && !h.sandboxed.paused {
		if err := s.startPause(ctx, h); err != nil {
			return nil, err
		}
		h.sandboxed.paused = true
	}
	s.options.Started()
	return &sandboxapi.StartSandboxResponse{
		Pid: uint32(h.holder.PID()), CreatedAt: timestamppb.New(h.sandboxed.createdAt),
	}, nil
}

// Platform implements the Sandbox API.
func (s *service) Platform(_ context.Context, request *sandboxapi.PlatformRequest) (*sandboxapi.PlatformResponse, error) {
	h, err := s.sandboxOf(request.GetSandboxID())
	if err != nil {
		return nil, err
	}
	return &sandboxapi.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: h.config.Hypervisor.MachineArchitecture()}}, nil
}

// StopSandbox implements the Sandbox API: it ends the machine, and with it every
// container. Nothing of the pod is in its network namespace afterwards.
func (s *service) StopSandbox(ctx context.Context, request *sandboxapi.StopSandboxRequest) (*sandboxapi.StopSandboxResponse, error) {
	h, err := s.sandboxOf(request.GetSandboxID())
	if err != nil {
		return nil, err
	}
	h.sandboxed.stopped.Store(true)
	if err := h.pod.Stop(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	h.holder.Stop()
	<-h.sandboxed.ended
	return &sandboxapi.StopSandboxResponse{}, nil
}

// WaitSandbox implements the Sandbox API.
func (s *service) WaitSandbox(ctx context.Context, request *sandboxapi.WaitSandboxRequest) (*sandboxapi.WaitSandboxResponse, error) {
	h, err := s.sandboxOf(request.GetSandboxID())
	if err != nil {
		return nil, err
	}
	select {
	case <-h.sandboxed.ended:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	response := &sandboxapi.WaitSandboxResponse{ExitedAt: timestamppb.New(h.sandboxed.endedAt)}
	if !h.sandboxed.stopped.Load() { // the machine has ended of itself
		response.ExitStatus = killedExit
	}
	return response, nil
}

// SandboxStatus implements the Sandbox API.
func (s *service) SandboxStatus(_ context.Context, request *sandboxapi.SandboxStatusRequest) (*sandboxapi.SandboxStatusResponse, error) {
	h, err := s.sandboxOf(request.GetSandboxID())
	if err != nil {
		return nil, err
	}
	response := &sandboxapi.SandboxStatusResponse{
		SandboxID: h.id, Pid: uint32(h.holder.PID()), State: stateReady, CreatedAt: timestamppb.New(h.sandboxed.createdAt),
	}
	select {
	case <-h.sandboxed.ended:
		response.State, response.ExitedAt = stateNotReady, timestamppb.New(h.sandboxed.endedAt)
	default:
	}
	return response, nil
}

// PingSandbox implements the Sandbox API.
func (s *service) PingSandbox(_ context.Context, request *sandboxapi.PingRequest) (*sandboxapi.PingResponse, error) {
	h, err := s.sandboxOf(request.GetSandboxID())
	if err != nil {
		return nil, err
	}
	select {
	case <-h.sandboxed.ended:
		return nil, fmt.Errorf("sandbox %q: %w", h.id, virtcontainers.ErrMachineEnded)
	default:
		return &sandboxapi.PingResponse{}, nil
	}
}

// ShutdownSandbox implements the Sandbox API: it releases the pod, and the shim
// ends. containerd calls it after a CreateSandbox that has failed, too.
func (s *service) ShutdownSandbox(ctx context.Context, request *sandboxapi.ShutdownSandboxRequest) (*sandboxapi.ShutdownSandboxResponse, error) {
	if h, err := s.sandboxOf(request.GetSandboxID()); err == nil {
		// Who makes or starts it waits for the guest, but not for one that has ended.
		h.sandboxed.stopped.Store(true)
		_ = h.pod.Stop(context.WithoutCancel(ctx)) // close says the same
	}
	s.booting.Lock()
	defer s.booting.Unlock()
	h := s.pod()
	if request.GetSandboxID() != s.options.ID || h != nil && h.sandboxed == nil {
		return nil, fmt.Errorf("sandbox %q: %w", request.GetSandboxID(), errdefs.ErrNotFound)
	}
	var err error
	if h != nil {
		h.sandboxed.stopped.Store(true)
		err = h.close(context.WithoutCancel(ctx))
	}
	s.shutdown()
	if err != nil {
		return nil, err
	}
	return &sandboxapi.ShutdownSandboxResponse{}, nil
}

// SandboxMetrics implements the Sandbox API: what the pod's containers use
// together.
func (s *service) SandboxMetrics(ctx context.Context, request *sandboxapi.SandboxMetricsRequest) (*sandboxapi.SandboxMetricsResponse, error) {
	if _, err := s.sandboxOf(request.GetSandboxID()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	var tasks []*task
	for _, t := range s.tasks {
		if t.created {
			tasks = append(tasks, t)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(tasks, func(a, b *task) int { return strings.Compare(a.id, b.id) })
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	var each []*anypb.Any
	for _, t := range tasks {
		data, err := t.container.Stats(ctx)
		if errors.Is(err, virtcontainers.ErrNotRunning) || errors.Is(err, virtcontainers.ErrNotFound) {
			continue // it uses nothing any more
		}
		if err != nil {
			return nil, err
		}
		metrics, err := stats.Convert(data)
		if err != nil {
			return nil, err
		}
		each = append(each, metrics)
	}
	sum, err := stats.Sum(each)
	if err != nil {
		return nil, err
	}
	return &sandboxapi.SandboxMetricsResponse{
		Metrics: &types.Metric{ID: request.GetSandboxID(), Timestamp: timestamppb.Now(), Data: sum},
	}, nil
}
