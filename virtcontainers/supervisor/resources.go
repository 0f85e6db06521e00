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

// ListProcesses implements api.SupervisorService.
func (s *server) ListProcesses(ctx context.Context, request *api.ContainerRequest) (*api.ListProcessesResponse, error) {
	c, err := s.pod.Container(request.GetContainerId())
	if err != nil {
		return nil, asStatus(err)
	}
	processes, err := c.Processes(ctx)
	if err != nil {
		return nil, asStatus(err)
	}
	response := &api.ListProcessesResponse{}
	if r := s.record(c.ID()); r != nil {
		response.StandInPids = r.standInPIDs()
	}
	for _, p := range processes {
		response.Processes = append(response.Processes, &api.GuestProcess{
			Pid: p.GetPid(), Ppid: p.GetPpid(), User: p.GetUser(), Time: p.GetTime(), Command: p.GetCommand(),
		})
	}
	return response, nil
}
