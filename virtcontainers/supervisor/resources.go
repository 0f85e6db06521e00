package supervisor

import (
	"context"
	"slices"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/supervisor/api"
)

// PauseContainer implements api.SupervisorService.
func (s *server) PauseContainer(ctx context.Context, request *api.ContainerRequest) (*api.Empty, error) {
	return s.switchStatus(request, virtcontainers.StatusPaused, func(c *virtcontainers.Container) error { return c.Pause(ctx) })
}

// ResumeContainer implements api.SupervisorService.
func (s *server) ResumeContainer(ctx context.Context, request *api.ContainerRequest) (*api.Empty, error) {
	return s.switchStatus(request, virtcontainers.StatusRunning, func(c *virtcontainers.Container) error { return c.Resume(ctx) })
}

func (s *server) switchStatus(request *api.ContainerRequest, status virtcontainers.Status, do func(*virtcontainers.Container) error) (*api.Empty, error) {
	c, err := s.lookup(request.GetContainerId())
	if err == nil {
		err = do(c.core)
	}
	if err == nil {
		err = s.setStatus(c, status)
	}
	if err != nil {
		return nil, asStatus(err)
	}
	return &api.Empty{}, nil
}

// UpdateContainer implements api.SupervisorService.
func (s *server) UpdateContainer(ctx context.Context, request *api.UpdateContainerRequest) (*api.Empty, error) {
	c, err := s.lookup(request.GetContainerId())
	if err == nil {
		err = c.core.Update(ctx, request.GetResourcesJson())
	}
	if err != nil {
		return nil, asStatus(err)
	}
	return &api.Empty{}, nil
}

// ContainerStats implements api.SupervisorService.
func (s *server) ContainerStats(ctx context.Context, request *api.ContainerRequest) (*api.ContainerStatsResponse, error) {
	c, err := s.lookup(request.GetContainerId())
	if err != nil {
		return nil, asStatus(err)
	}
	stats, err := c.core.Stats(ctx)
	if err != nil {
		return nil, asStatus(err)
	}
	return &api.ContainerStatsResponse{StatsJson: stats}, nil
}

// ListProcesses implements api.SupervisorService.
func (s *server) ListProcesses(ctx context.Context, request *api.ContainerRequest) (*api.ListProcessesResponse, error) {
	c, err := s.lookup(request.GetContainerId())
	if err != nil {
		return nil, asStatus(err)
	}
	processes, err := c.core.Processes(ctx)
	if err != nil {
		return nil, asStatus(err)
	}
	response := &api.ListProcessesResponse{StandInPids: s.standInPIDs(c)}
	for _, p := range processes {
		response.Processes = append(response.Processes, &api.GuestProcess{
			Pid: p.GetPid(), Ppid: p.GetPpid(), User: p.GetUser(), Time: p.GetTime(), Command: p.GetCommand(),
		})
	}
	return response, nil
}

// standInPIDs lists the stand-ins of a container's processes, the init's first.
func (s *server) standInPIDs(c *container) []int32 {
	c.mu.Lock()
	pids := []int32{int32(c.state.StandInPID)}
	c.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid := range c.execStandIns {
		pids = append(pids, int32(pid))
	}
	slices.Sort(pids[1:])
	return pids
}
