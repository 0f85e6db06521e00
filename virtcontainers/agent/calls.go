package agent

import (
	"context"

	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
)

// calls are those of the agent by way of a remote. It implements protocol.AgentService.
type calls struct{ *remote }

func ask[A any, P interface {
	*A
	proto.Message
}](ctx context.Context, c calls, method string, request proto.Message) (*A, error) {
	answer := new(A)
	if err := c.call(ctx, method, request, P(answer)); err != nil {
		return nil, err
	}
	return answer, nil
}

func (c calls) Hello(ctx context.Context, q *protocol.HelloRequest) (*protocol.HelloResponse, error) {
	return ask[protocol.HelloResponse](ctx, c, "Hello", q)
}

func (c calls) CreateSandbox(ctx context.Context, q *protocol.CreateSandboxRequest) (*protocol.CreateSandboxResponse, error) {
	return ask[protocol.CreateSandboxResponse](ctx, c, "CreateSandbox", q)
}

func (c calls) DestroySandbox(ctx context.Context, q *protocol.DestroySandboxRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "DestroySandbox", q)
}

func (c calls) Rehearse(ctx context.Context, q *protocol.Empty) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "Rehearse", q)
}

func (c calls) SetClock(ctx context.Context, q *protocol.SetClockRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "SetClock", q)
}

func (c calls) CreateContainer(ctx context.Context, q *protocol.CreateContainerRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "CreateContainer", q)
}

func (c calls) StartContainer(ctx context.Context, q *protocol.ContainerRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "StartContainer", q)
}

func (c calls) RemoveContainer(ctx context.Context, q *protocol.ContainerRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "RemoveContainer", q)
}

func (c calls) UpdateContainer(ctx context.Context, q *protocol.UpdateContainerRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "UpdateContainer", q)
}

func (c calls) PauseContainer(ctx context.Context, q *protocol.ContainerRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "PauseContainer", q)
}

func (c calls) ResumeContainer(ctx context.Context, q *protocol.ContainerRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "ResumeContainer", q)
}

func (c calls) StatsContainer(ctx context.Context, q *protocol.ContainerRequest) (*protocol.StatsContainerResponse, error) {
	return ask[protocol.StatsContainerResponse](ctx, c, "StatsContainer", q)
}

func (c calls) ListProcesses(ctx context.Context, q *protocol.ContainerRequest) (*protocol.ListProcessesResponse, error) {
	return ask[protocol.ListProcessesResponse](ctx, c, "ListProcesses", q)
}

func (c calls) ExecProcess(ctx context.Context, q *protocol.ExecProcessRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "ExecProcess", q)
}

func (c calls) SignalProcess(ctx context.Context, q *protocol.SignalProcessRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "SignalProcess", q)
}

func (c calls) WaitProcess(ctx context.Context, q *protocol.ProcessRequest) (*protocol.WaitProcessResponse, error) {
	return ask[protocol.WaitProcessResponse](ctx, c, "WaitProcess", q)
}

func (c calls) ResizeTerminal(ctx context.Context, q *protocol.ResizeTerminalRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "ResizeTerminal", q)
}

func (c calls) NextOOM(ctx context.Context, q *protocol.Empty) (*protocol.OOMEvent, error) {
	return ask[protocol.OOMEvent](ctx, c, "NextOOM", q)
}

func (c calls) OnlineResources(ctx context.Context, q *protocol.OnlineResourcesRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "OnlineResources", q)
}

func (c calls) UpdateSockets(ctx context.Context, q *protocol.UpdateSocketsRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "UpdateSockets", q)
}

func (c calls) SetNetwork(ctx context.Context, q *protocol.SetNetworkRequest) (*protocol.Empty, error) {
	return ask[protocol.Empty](ctx, c, "SetNetwork", q)
}

func (c calls) Metrics(ctx context.Context, q *protocol.MetricsRequest) (*protocol.MetricsResponse, error) {
	return ask[protocol.MetricsResponse](ctx, c, "Metrics", q)
}
