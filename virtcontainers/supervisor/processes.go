package supervisor

import (
	"context"

	"kata-runtime/virtcontainers/supervisor/api"
)

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
