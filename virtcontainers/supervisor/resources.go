package supervisor

import (
	"context"

	"kata-runtime/virtcontainers/supervisor/api"
)

// UpdateContainer implements api.SupervisorService.
func (s *server) UpdateContainer(ctx context.Context, request *api.UpdateContainerRequest) (*api.Empty, error) {
	c, err := s.pod.Container(request.GetContainerId())
	if err == nil {
		err = c.Update(ctx, request.GetResourcesJson())
	}
	if err != nil {
		return nil, asStatus(err)
	}
	return &api.Empty{}, nil
}

// ContainerStats implements api.SupervisorService.
func (s *server) ContainerStats(ctx context.Context, request *api.ContainerRequest) (*api.ContainerStatsResponse, error) {
	c, err := s.pod.Container(request.GetContainerId())
	if err != nil {
		return nil, asStatus(err)
	}
	stats, err := c.Stats(ctx)
	if err != nil {
		return nil, asStatus(err)
	}
	return &api.ContainerStatsResponse{StatsJson: stats}, nil
}
