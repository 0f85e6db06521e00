package sandboxtest

import (
	"cmp"
	"context"
	"path"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
)

// KernelRelease is what a Guest says of its kernel.
const KernelRelease = "6.0.0-sandboxtest"

func compareKeys(a, b ProcessKey) int {
	return cmp.Or(strings.Compare(a.Container, b.Container), strings.Compare(a.Process, b.Process))
}

// received notes a request and runs the hook for it.
func (g *Guest) received(ctx context.Context, fullMethod string, request any) error {
	method := path.Base(fullMethod)
	g.mu.Lock()
	g.requests[method] = append(g.requests[method], request)
	hook := g.hooks[method]
	g.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, request)
}

// agent answers the calls of the protocol.
type agent struct{ guest *Guest }

var _ protocol.AgentService = agent{}

func (agent) Hello(context.Context, *protocol.HelloRequest) (*protocol.HelloResponse, error) {
	return &protocol.HelloResponse{Version: protocol.Version, KernelRelease: KernelRelease}, nil
}

func (agent) CreateSandbox(context.Context, *protocol.CreateSandboxRequest) (*protocol.CreateSandboxResponse, error) {
	return &protocol.CreateSandboxResponse{}, nil
}

func (agent) DestroySandbox(context.Context, *protocol.DestroySandboxRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (agent) Rehearse(context.Context, *protocol.Empty) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (agent) SetClock(context.Context, *protocol.SetClockRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (a agent) CreateContainer(_ context.Context, r *protocol.CreateContainerRequest) (*protocol.Empty, error) {
	a.guest.mu.Lock()
	defer a.guest.mu.Unlock()
	a.guest.process(ProcessKey{Container: r.GetContainerId()})
	return &protocol.Empty{}, nil
}

func (agent) StartContainer(context.Context, *protocol.ContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (a agent) RemoveContainer(_ context.Context, r *protocol.ContainerRequest) (*protocol.Empty, error) {
	a.guest.mu.Lock()
	defer a.guest.mu.Unlock()
	a.guest.exit(ProcessKey{Container: r.GetContainerId()}, 128+uint32(syscall.SIGKILL))
	for key := range a.guest.processes {
		if key.Container == r.GetContainerId() {
			delete(a.guest.processes, key)
		}
	}
	return &protocol.Empty{}, nil
}

func (agent) UpdateContainer(context.Context, *protocol.UpdateContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (agent) PauseContainer(context.Context, *protocol.ContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (agent) ResumeContainer(context.Context, *protocol.ContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (agent) StatsContainer(context.Context, *protocol.ContainerRequest) (*protocol.StatsContainerResponse, error) {
	return &protocol.StatsContainerResponse{StatsJson: []byte(`{}`)}, nil
}

func (a agent) ListProcesses(_ context.Context, r *protocol.ContainerRequest) (*protocol.ListProcessesResponse, error) {
	return &protocol.ListProcessesResponse{Processes: a.guest.list(r.GetContainerId())}, nil
}

func (a agent) ExecProcess(_ context.Context, r *protocol.ExecProcessRequest) (*protocol.Empty, error) {
	a.guest.mu.Lock()
	defer a.guest.mu.Unlock()
	a.guest.process(ProcessKey{r.GetContainerId(), r.GetProcessId()})
	return &protocol.Empty{}, nil
}

// SignalProcess ends what it reaches: programs that handle a signal are the
// business of Guest.Immortal.
func (a agent) SignalProcess(_ context.Context, r *protocol.SignalProcessRequest) (*protocol.Empty, error) {
	a.guest.mu.Lock()
	defer a.guest.mu.Unlock()
	key := ProcessKey{r.GetContainerId(), r.GetProcessId()}
	p, ok := a.guest.processes[key]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "no process %q in %q", key.Process, key.Container)
	}
	select {
	case <-p.exited:
		return nil, status.Errorf(codes.FailedPrecondition, "the process has ended")
	default:
	}
	if r.GetSignal() != 0 && !a.guest.Immortal.Load() {
		a.guest.exit(key, 128+r.GetSignal())
	}
	return &protocol.Empty{}, nil
}

func (a agent) WaitProcess(ctx context.Context, r *protocol.ProcessRequest) (*protocol.WaitProcessResponse, error) {
	a.guest.mu.Lock()
	p, ok := a.guest.processes[ProcessKey{r.GetContainerId(), r.GetProcessId()}]
	a.guest.mu.Unlock()
	if !ok {
		return nil, status.Errorf(codes.NotFound, "no process %q in %q", r.GetProcessId(), r.GetContainerId())
	}
	select {
	case <-p.exited:
	case <-a.guest.Machine.ended:
		return nil, status.Error(codes.Unavailable, "the machine has ended")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a.guest.mu.Lock()
	defer a.guest.mu.Unlock()
	if p.lost { // nobody is there who could answer
		return nil, status.Error(codes.Unavailable, "the machine has ended")
	}
	return &protocol.WaitProcessResponse{ExitCode: p.code, OomEvents: a.guest.oomEvents}, nil
}

func (agent) ResizeTerminal(context.Context, *protocol.ResizeTerminalRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (a agent) NextOOM(ctx context.Context, _ *protocol.Empty) (*protocol.OOMEvent, error) {
	select {
	case id := <-a.guest.ooms:
		return &protocol.OOMEvent{ContainerId: id}, nil
	case <-a.guest.Machine.ended: // a call that came just before it may not hear of its connection's end
		return nil, status.Error(codes.Unavailable, "the machine has ended")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (agent) OnlineResources(context.Context, *protocol.OnlineResourcesRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (agent) UpdateSockets(context.Context, *protocol.UpdateSocketsRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (a agent) Metrics(context.Context, *protocol.MetricsRequest) (*protocol.MetricsResponse, error) {
	if measured := a.guest.Measured.Load(); measured != nil {
		return measured, nil
	}
	return &protocol.MetricsResponse{}, nil
}

func (agent) SetNetwork(context.Context, *protocol.SetNetworkRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}
