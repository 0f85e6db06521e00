package server

import (
	"bytes"
	"context"

	"kata-runtime/guest/hotplug"
	"kata-runtime/guest/locks"
	"kata-runtime/guest/metrics"
	"kata-runtime/guest/protocol"
)

// The calls about containers: each hands over to the runtime, or where no
// container is named to the guest's own console.

func (s *sandbox) CreateContainer(ctx context.Context, req *protocol.CreateContainerRequest) (*protocol.Empty, error) {
	s.keepMemory(ctx)
	s.mu.Lock()
	service := s.modules
	s.mu.Unlock()
	if service != nil {
		// Not parsed: the name stands for nothing else.
		service.Prepare(bytes.Contains(req.GetSpecJson(), []byte("CAP_NET_ADMIN")))
	}
	return &protocol.Empty{}, s.runtime.Create(ctx, req)
}

func (s *sandbox) StartContainer(ctx context.Context, req *protocol.ContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, s.runtime.Start(ctx, req.GetContainerId())
}

func (s *sandbox) RemoveContainer(ctx context.Context, req *protocol.ContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, s.runtime.Remove(ctx, req.GetContainerId())
}

func (s *sandbox) UpdateContainer(ctx context.Context, req *protocol.UpdateContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, s.runtime.Update(ctx, req.GetContainerId(), req.GetResourcesJson())
}

func (s *sandbox) PauseContainer(ctx context.Context, req *protocol.ContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, s.runtime.Pause(ctx, req.GetContainerId())
}

func (s *sandbox) ResumeContainer(ctx context.Context, req *protocol.ContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, s.runtime.Resume(ctx, req.GetContainerId())
}

func (s *sandbox) StatsContainer(_ context.Context, req *protocol.ContainerRequest) (*protocol.StatsContainerResponse, error) {
	stats, err := s.runtime.Stats(req.GetContainerId())
	return &protocol.StatsContainerResponse{StatsJson: stats}, err
}

func (s *sandbox) ListProcesses(ctx context.Context, req *protocol.ContainerRequest) (*protocol.ListProcessesResponse, error) {
	list, err := s.runtime.Processes(ctx, req.GetContainerId())
	return &protocol.ListProcessesResponse{Processes: list}, err
}

func (s *sandbox) ExecProcess(ctx context.Context, req *protocol.ExecProcessRequest) (*protocol.Empty, error) {
	if req.GetContainerId() == "" {
		return &protocol.Empty{}, s.console.Exec(req)
	}
	return &protocol.Empty{}, s.runtime.Exec(ctx, req)
}

func (s *sandbox) SignalProcess(ctx context.Context, req *protocol.SignalProcessRequest) (*protocol.Empty, error) {
	if req.GetContainerId() == "" {
		return &protocol.Empty{}, s.console.Signal(req.GetProcessId(), req.GetSignal())
	}
	err := s.runtime.Signal(ctx, req.GetContainerId(), req.GetProcessId(), req.GetSignal(), req.GetAll())
	if err == nil && locks.Ends(req.GetSignal()) {
		if group := s.runtime.CgroupDir(req.GetContainerId()); group != "" {
			s.mu.Lock()
			dying := s.dying
			s.mu.Unlock()
			for _, each := range dying {
				each.Signalled(group)
			}
		}
	}
	return &protocol.Empty{}, err
}

func (s *sandbox) WaitProcess(ctx context.Context, req *protocol.ProcessRequest) (*protocol.WaitProcessResponse, error) {
	if req.GetContainerId() == "" {
		exit, err := s.console.Wait(ctx, req.GetProcessId())
		if err != nil {
			return nil, err
		}
		return &protocol.WaitProcessResponse{
			ExitCode: uint32(exit.Code), Signal: uint32(exit.Signal), ExitedUnixNanos: exit.At.UnixNano(),
		}, nil
	}
	exit, err := s.runtime.Wait(ctx, req.GetContainerId(), req.GetProcessId())
	if err != nil {
		return nil, err
	}
	return &protocol.WaitProcessResponse{
		ExitCode: uint32(exit.Code), Signal: uint32(exit.Signal),
		OomKilled: exit.OOMKilled, OomEvents: exit.OOMEvents, ExitedUnixNanos: exit.At.UnixNano(),
	}, nil
}

func (s *sandbox) ResizeTerminal(_ context.Context, req *protocol.ResizeTerminalRequest) (*protocol.Empty, error) {
	if req.GetContainerId() == "" {
		return &protocol.Empty{}, s.console.Resize(req.GetProcessId(), req.GetRows(), req.GetColumns())
	}
	return &protocol.Empty{}, s.runtime.Resize(req.GetContainerId(), req.GetProcessId(), req.GetRows(), req.GetColumns())
}

func (s *sandbox) OnlineResources(ctx context.Context, req *protocol.OnlineResourcesRequest) (*protocol.Empty, error) {
	const limit = 1 << 31 // what a host asks for, and more than any has
	return &protocol.Empty{}, hotplug.AwaitResources(ctx, int(min(req.GetVcpus(), limit)), int(min(req.GetMemoryMib(), limit)))
}

func (s *sandbox) UpdateSockets(_ context.Context, req *protocol.UpdateSocketsRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, s.sockets.Update(req.GetContainerId(), req.GetSocketBinds())
}

// procRoot is where the guest's proc file system is.
const procRoot = "/proc"

func (s *sandbox) Metrics(_ context.Context, req *protocol.MetricsRequest) (*protocol.MetricsResponse, error) {
	response := &protocol.MetricsResponse{Guest: append(metrics.Guest(procRoot), metrics.Agent(procRoot)...)}
	for _, id := range req.GetContainerIds() {
		response.Containers = append(response.Containers, &protocol.ContainerMeasurements{
			Measurements: metrics.Container(s.runtime.CgroupDir(id)),
		})
	}
	return response, nil
}
