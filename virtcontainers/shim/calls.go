package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/shim/events"
	"kata-runtime/virtcontainers/shim/stats"
)

// errNoCheckpoint and errNoRestore refuse what no VM of ours can do. See prepare for
// the code of the latter.
var (
	errNoCheckpoint = fmt.Errorf("%w: a container in a virtual machine is not checkpointed", errdefs.ErrNotImplemented)
	errNoRestore    = fmt.Errorf("%w: a container in a virtual machine is not restored from a checkpoint", errdefs.ErrInvalidArgument)
)

// invalid says that an error is the caller's.
func invalid(err error) error { return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err) }

// State implements the task API.
func (s *service) State(_ context.Context, request *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	p, err := s.find(request.GetID(), request.GetExecID())
	if err != nil {
		return nil, err
	}
	return p.state(), nil
}

// Start implements the task API.
func (s *service) Start(ctx context.Context, request *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	p, err := s.find(request.GetID(), request.GetExecID())
	if err == nil {
		err = p.start(ctx)
	}
	if err != nil {
		return nil, err
	}
	s.options.Started()
	return &taskapi.StartResponse{Pid: p.reportedPID()}, nil
}

// Delete implements the task API.
func (s *service) Delete(ctx context.Context, request *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if request.GetExecID() == "" {
		if err := s.endCreation(ctx, request.GetID()); err != nil {
			return nil, err
		}
	}
	p, err := s.find(request.GetID(), request.GetExecID())
	if err != nil {
		return nil, err
	}
	code, at, err := p.remove(ctx)
	if err != nil {
		return nil, err
	}
	return &taskapi.DeleteResponse{Pid: p.reportedPID(), ExitStatus: code, ExitedAt: timestamppb.New(at)}, nil
}

// Pids implements the task API. The first process's is the task's; the others are
// made from the guest's numbers: see package holder.
func (s *service) Pids(ctx context.Context, request *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	t, err := s.task(request.GetID())
	if err != nil {
		return nil, err
	}
	processes, err := t.container.Processes(ctx)
	// A containerd that is restarted asks, and deletes a task without any.
	if err != nil && t.container.Status() != virtcontainers.StatusStopped {
		return nil, err
	}
	response := &taskapi.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: t.pid()}}}
	for _, p := range processes[min(1, len(processes)):] {
		response.Processes = append(response.Processes, &tasktypes.ProcessInfo{Pid: holder.GuestPID(uint64(p.GetPid()))})
	}
	return response, nil
}

// Pause implements the task API.
func (s *service) Pause(ctx context.Context, request *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return s.change(request.GetID(), events.TopicPaused, func(c *pod.Container) (publishable, error) {
		return &eventsapi.TaskPaused{ContainerID: c.ID()}, c.Pause(ctx)
	})
}

// Resume implements the task API.
func (s *service) Resume(ctx context.Context, request *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return s.change(request.GetID(), events.TopicResumed, func(c *pod.Container) (publishable, error) {
		return &eventsapi.TaskResumed{ContainerID: c.ID()}, c.Resume(ctx)
	})
}

// change does something to a task, and tells containerd. A guest that does not answer
// keeps nothing else waiting.
func (s *service) change(id, topic string, do func(*pod.Container) (publishable, error)) (*emptypb.Empty, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, err
	}
	t.switching.Lock()
	defer t.switching.Unlock()
	event, err := do(t.container)
	if err != nil {
		return nil, err
	}
	t.ordering.Lock()
	defer t.ordering.Unlock()
	if t.ended {
		return nil, fmt.Errorf("%w: it has ended meanwhile", virtcontainers.ErrNotRunning)
	}
	t.publish(topic, event)
	return &emptypb.Empty{}, nil
}

// Checkpoint implements the task API.
func (*service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, errNoCheckpoint
}

// Kill implements the task API.
func (s *service) Kill(ctx context.Context, request *taskapi.KillRequest) (*emptypb.Empty, error) {
	p, err := s.find(request.GetID(), request.GetExecID())
	if err == nil {
		err = p.kill(ctx, request.GetSignal(), request.GetAll())
	}
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// ResizePty implements the task API.
func (s *service) ResizePty(ctx context.Context, request *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	p, err := s.find(request.GetID(), request.GetExecID())
	if err == nil {
		err = p.resize(ctx, uint16(min(request.GetHeight(), math.MaxUint16)), uint16(min(request.GetWidth(), math.MaxUint16)))
	}
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// CloseIO implements the task API.
func (s *service) CloseIO(_ context.Context, request *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	p, err := s.find(request.GetID(), request.GetExecID())
	if err != nil {
		return nil, err
	}
	if request.GetStdin() {
		p.closeStdin()
	}
	return &emptypb.Empty{}, nil
}

// Update implements the task API.
func (s *service) Update(ctx context.Context, request *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	t, err := s.task(request.GetID())
	if err != nil {
		return nil, err
	}
	if len(request.GetResources().GetValue()) == 0 {
		return &emptypb.Empty{}, nil
	}
	// The type is that of the specification's LinuxResources, whose form is JSON.
	if err := json.Unmarshal(request.GetResources().GetValue(), &specs.LinuxResources{}); err != nil {
		return nil, invalid(fmt.Errorf("decode the resources: %w", err))
	}
	if err := t.container.Update(ctx, request.GetResources().GetValue()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Wait implements the task API.
func (s *service) Wait(ctx context.Context, request *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	p, err := s.find(request.GetID(), request.GetExecID())
	if err != nil {
		return nil, err
	}
	code, at, err := p.wait(ctx)
	if err != nil {
		return nil, err
	}
	return &taskapi.WaitResponse{ExitStatus: code, ExitedAt: timestamppb.New(at)}, nil
}

// statsTimeout bounds the wait for statistics. containerd asks for those of all
// containers of a node one after the other: a guest that does not answer must not
// keep the node's from kubelet.
const statsTimeout = 10 * time.Second

// Stats implements the task API: those of the container's control group in the
// guest.
func (s *service) Stats(ctx context.Context, request *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	t, err := s.task(request.GetID())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	data, err := t.container.Stats(ctx)
	if err != nil {
		return nil, err
	}
	metrics, err := stats.Convert(data)
	if err != nil {
		return nil, err
	}
	return &taskapi.StatsResponse{Stats: metrics}, nil
}

// Connect implements the task API.
func (s *service) Connect(_ context.Context, request *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	response := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}
	t, err := s.task(request.GetID())
	switch {
	case err == nil:
		response.TaskPid = t.pid()
	case !errors.Is(err, virtcontainers.ErrNotFound):
		return nil, err
	}
	return response, nil
}

// shutdown ends the shim for a containerd that closes its connections once it has
// the answer.
func (s *service) shutdown() {
	s.once.Do(func() {
		s.goodbye = goodbyeTimeout
		close(s.done)
	})
}

// Shutdown implements the task API: the shim ends, unless it has tasks, or a pod
// that ShutdownSandbox ends.
func (s *service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tasks) == 0 && (s.home == nil || s.home.sandboxed == nil) {
		s.shutdown()
	}
	return &emptypb.Empty{}, nil
}
