package supervisor

import (
	"context"

	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/supervisor/api"
)

// PauseContainer implements api.SupervisorService.
func (s *server) PauseContainer(ctx context.Context, request *api.ContainerRequest) (*api.Empty, error) {
	return s.switchStatus(request, func(c *pod.Container) error { return c.Pause(ctx) })
}

// ResumeContainer implements api.SupervisorService.
func (s *server) ResumeContainer(ctx context.Context, request *api.ContainerRequest) (*api.Empty, error) {
	return s.switchStatus(request, func(c *pod.Container) error { return c.Resume(ctx) })
}

// switchStatus calls do with the container that a request names.
func (s *server) switchStatus(request *api.ContainerRequest, do func(*pod.Container) error) (*api.Empty, error) {
	c, err := s.pod.Container(request.GetContainerId())
	if err == nil {
		err = do(c)
	}
	if err != nil {
		return nil, asStatus(err)
	}
	return &api.Empty{}, nil
}
