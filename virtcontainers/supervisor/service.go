package supervisor

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/supervisor/api"
)

// Hello implements api.SupervisorService.
func (s *server) Hello(_ context.Context, request *api.HelloRequest) (*api.HelloResponse, error) {
	version := min(request.GetNewest(), newestVersion)
	if version < max(request.GetOldest(), oldestVersion) {
		return nil, status.Errorf(codes.FailedPrecondition,
			"this pod's supervisor speaks versions %d to %d of the private protocol, the command %d to %d: use the kata-runtime that started the pod",
			oldestVersion, newestVersion, request.GetOldest(), request.GetNewest())
	}
	return &api.HelloResponse{Version: version}, nil
}

// StartContainer implements api.SupervisorService.
func (s *server) StartContainer(ctx context.Context, request *api.ContainerRequest) (*api.StartContainerResponse, error) {
	c, err := s.pod.Container(request.GetContainerId())
	if err == nil {
		err = c.Start(ctx)
	}
	if err != nil {
		return nil, asStatus(err)
	}
	s.started()
	return &api.StartContainerResponse{Timings: timings(s.sandbox)}, nil
}

// KillContainer implements api.SupervisorService.
func (s *server) KillContainer(ctx context.Context, request *api.KillContainerRequest) (*api.Empty, error) {
	c, err := s.pod.Container(request.GetContainerId())
	if err == nil {
		err = c.Signal(ctx, syscall.Signal(request.GetSignal()), request.GetAll())
	}
	if err != nil {
		return nil, asStatus(err)
	}
	return &api.Empty{}, nil
}

// DeleteContainer implements api.SupervisorService.
func (s *server) DeleteContainer(ctx context.Context, request *api.DeleteContainerRequest) (*api.DeleteContainerResponse, error) {
	if token := request.GetChannel(); token != "" && !s.leases(token, request.GetContainerId()) {
		return nil, asStatus(fmt.Errorf("container %q: %w", request.GetContainerId(), virtcontainers.ErrNotFound))
	}
	removed, err := s.remove(ctx, request.GetContainerId(), request.GetForce())
	if err != nil {
		return nil, asStatus(err)
	}
	return &api.DeleteContainerResponse{Last: removed.Last, Creating: removed.Creating}, nil
}

// leases tells whether a container is under a channel's lease.
func (s *server) leases(token, id string) bool {
	r := s.record(id)
	return r != nil && r.owner.token == token
}

// remove deletes a container, with force also one that still runs, or that is
// being created, or the pod's first that nobody has asked for yet.
func (s *server) remove(ctx context.Context, id string, force bool) (pod.Removal, error) {
	if force && s.endUnasked(id) {
		return pod.Removal{Last: true, Creating: true}, nil
	}
	return s.pod.Remove(ctx, id, force)
}

// endUnasked ends a pod whose first container was not asked for yet, and tells
// whether it is that.
func (s *server) endUnasked(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != s.id || s.first == nil || !s.pod.Unused() {
		return false
	}
	s.pod.End()
	return true
}

func timings(sandbox *virtcontainers.Sandbox) []*api.Timing {
	var result []*api.Timing
	for _, t := range sandbox.Timings() {
		result = append(result, &api.Timing{
			Stage: string(t.Stage), BeginNanos: t.Begin.Nanoseconds(), DurationNanos: t.Duration.Nanoseconds(),
		})
	}
	return result
}

// asStatus gives an error the code by which the client finds its kind again.
func asStatus(err error) error {
	code := codes.Unknown
	switch {
	case errors.Is(err, virtcontainers.ErrExists):
		code = codes.AlreadyExists
	case errors.Is(err, virtcontainers.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, virtcontainers.ErrNotRunning):
		code = codes.Aborted
	case errors.Is(err, virtcontainers.ErrState):
		code = codes.FailedPrecondition
	}
	return status.Error(code, err.Error())
}
