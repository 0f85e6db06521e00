package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"syscall"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/shim/events"
	"kata-runtime/virtcontainers/shim/stdio"
)

// execution is a process that containerd has added to a task: Exec makes it known,
// Start runs it.
type execution struct {
	task    *task
	request *taskapi.ExecProcessRequest
	process []byte // the guest's view, as JSON
	io      *stdio.Attachment
	// pid is what is reported as its pid: none of the host's.
	pid uint32
	// told is closed when its end was told.
	told chan struct{}
	// settled is closed when it runs, or its start has failed.
	settled chan struct{}
	// starting is held by start and remove.
	starting sync.Mutex
	// sizing is held while the terminal's size is passed on: the last one counts.
	sizing sync.Mutex

	mu            sync.Mutex // guards what follows
	begun         bool       // start was called
	launched      bool       // the guest was asked for it: the task's end comes after its
	running       *pod.Exec  // nil until it runs
	removed       bool
	stdinClosed   bool   // asked for before it was started, as
	rows, columns uint16 // these

	// How it has ended; written before told is closed.
	code uint32
	at   time.Time
}

// unknownExit is the exit code of a process that could not be started: containerd's
// for one that it does not know (UnknownExitStatus).
const unknownExit = 255

// Exec implements the task API.
func (s *service) Exec(_ context.Context, request *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	t, err := s.task(request.GetID())
	if err != nil {
		return nil, err
	}
	if request.GetExecID() == "" {
		return nil, invalid(fmt.Errorf("a process of task %q needs an id", t.id))
	}
	if err := oci.ValidateID(request.GetExecID()); err != nil {
		return nil, invalid(err)
	}
	if status := t.container.Status(); status == virtcontainers.StatusStopped {
		return nil, fmt.Errorf("%w: cannot exec in a container that is %s", virtcontainers.ErrNotRunning, status)
	}
	e := &execution{
		task: t, request: request, pid: holder.GuestPID(s.execs.Add(1)), told: make(chan struct{}), settled: make(chan struct{}),
	}
	if e.process, err = e.translate(); err != nil {
		return nil, invalid(err)
	}
	t.mu.Lock()
	if _, taken := t.execs[request.GetExecID()]; taken {
		t.mu.Unlock()
		return nil, fmt.Errorf("process %q of task %q: %w", request.GetExecID(), t.id, virtcontainers.ErrExists)
	}
	t.execs[request.GetExecID()] = e
	t.mu.Unlock()
	t.publish(events.TopicExecAdded, &eventsapi.TaskExecAdded{ContainerID: t.id, ExecID: request.GetExecID()})
	return &emptypb.Empty{}, nil
}

// translate makes the guest's view of the process.
func (e *execution) translate() ([]byte, error) {
	var process specs.Process
	if err := json.Unmarshal(e.request.GetSpec().GetValue(), &process); err != nil {
		return nil, fmt.Errorf("decode the process: %w", err)
	}
	process.Terminal = e.request.GetTerminal()
	if err := oci.ValidateProcess(&process); err != nil {
		return nil, err
	}
	guest, dropped, err := oci.TransformProcess(&process, e.task.service.options.Rlimits)
	if err != nil {
		return nil, err
	}
	for _, field := range dropped {
		e.task.service.options.Log.Debug("field of the process does not reach the guest", "field", field, "container", e.task.id)
	}
	if warning := oci.UnknownCapabilities(&process); warning != "" {
		e.task.service.options.Log.Warn(warning, "container", e.task.id)
	}
	encoded, err := json.Marshal(guest)
	if err != nil {
		return nil, fmt.Errorf("encode the process: %w", err)
	}
	return encoded, nil
}

func (e *execution) current() *pod.Exec {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running
}

func (e *execution) isBegun() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.begun
}

func (e *execution) isLaunched() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.launched
}

// end says that the process has ended, or will never run. The caller holds mu,
// once.
func (e *execution) end(code uint32, at time.Time) {
	e.code, e.at = code, at
	close(e.told)
}

// forget ends what was never started, with its task, and lets go of the output of
// what was.
func (e *execution) forget() {
	e.mu.Lock()
	if !e.begun && !e.removed {
		e.removed = true
		e.end(killedExit, time.Now())
	}
	e.mu.Unlock()
	e.releaseIO()
}

// releaseIO gives up output that waits for a reader.
func (e *execution) releaseIO() {
	e.mu.Lock()
	io := e.io
	e.mu.Unlock()
	if io != nil {
		io.Release()
	}
}

// errNotStarted says that a process has nothing yet that could be acted on.
var errNotStarted = fmt.Errorf("%w: the process was not started", virtcontainers.ErrState)

func (e *execution) notFound() error {
	return fmt.Errorf("process %q of task %q: %w", e.request.GetExecID(), e.task.id, virtcontainers.ErrNotFound)
}

func (e *execution) start(ctx context.Context) error {
	e.starting.Lock()
	defer e.starting.Unlock()
	e.mu.Lock()
	begun, removed := e.begun, e.removed
	e.begun = begun || !removed
	e.mu.Unlock()
	switch {
	case removed:
		return e.notFound()
	case begun:
		return fmt.Errorf("%w: the process was started", virtcontainers.ErrState)
	}
	err := e.run(ctx)
	if err != nil { // it cannot be tried again, and nobody is to wait for it
		e.mu.Lock()
		e.end(unknownExit, time.Now())
		e.mu.Unlock()
		close(e.settled)
	}
	return err
}

// launch notes that the guest is asked for the process.
func (e *execution) launch(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.launched = true
	return nil
}

func (e *execution) run(ctx context.Context) error {
	log := e.task.service.options.Log
	io, err := stdio.Open(ctx, stdio.Config{
		ID: e.task.id, Namespace: e.task.service.options.Namespace, Terminal: e.request.GetTerminal(),
		Stdin: e.request.GetStdin(), Stdout: e.request.GetStdout(), Stderr: e.request.GetStderr(), Log: log,
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.io = io
	if e.stdinClosed {
		io.CloseStdin()
	}
	e.mu.Unlock()
	running, err := e.task.container.Exec(ctx, pod.ExecRequest{
		ExecOptions: virtcontainers.ExecOptions{ID: e.request.GetExecID(), Process: e.process, IO: io.IO()},
		Attachment:  io, Prepare: e.launch,
	})
	if err != nil {
		io.Close(virtcontainers.Exit{Code: killedExit})
		io.Release()
		return err
	}
	e.sizing.Lock()
	defer e.sizing.Unlock()
	e.mu.Lock()
	e.running = running
	rows, columns := e.rows, e.columns
	e.mu.Unlock()
	e.task.publish(events.TopicExecStarted, &eventsapi.TaskExecStarted{ContainerID: e.task.id, ExecID: e.request.GetExecID(), Pid: e.pid})
	e.task.service.background.Go(func() { e.watch(running) })
	close(e.settled)
	if rows > 0 || columns > 0 {
		if err := running.Resize(ctx, rows, columns); err != nil {
			log.Debug("set the terminal's size", "container", e.task.id, "error", err)
		}
	}
	return nil
}

// watch tells containerd of the process's end.
func (e *execution) watch(running *pod.Exec) {
	<-running.Finished()
	code, at := uint32(killedExit), time.Now()
	select {
	case <-running.Done():
		code, at = uint32(running.Exit().Code), running.Exit().At
	default: // the guest says that the task has ended without it
	}
	e.task.publish(events.TopicExit, &eventsapi.TaskExit{
		ContainerID: e.task.id, ID: e.request.GetExecID(), Pid: e.pid,
		ExitStatus: code, ExitedAt: timestamppb.New(at),
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end(code, at)
}

func (e *execution) reportedPID() uint32 { return e.pid }

func (e *execution) state() *taskapi.StateResponse {
	response := &taskapi.StateResponse{
		ID: e.task.id, ExecID: e.request.GetExecID(), Bundle: e.task.request.GetBundle(), Pid: e.pid,
		Status: tasktypes.Status_CREATED,
		Stdin:  e.request.GetStdin(), Stdout: e.request.GetStdout(), Stderr: e.request.GetStderr(), Terminal: e.request.GetTerminal(),
	}
	if running := e.current(); running != nil && !e.hasEnded() {
		response.Status = tasktypes.Status_RUNNING
		select {
		case <-running.Done():
			exit := running.Exit()
			response.Status = tasktypes.Status_STOPPED
			response.ExitStatus, response.ExitedAt = uint32(exit.Code), timestamppb.New(exit.At)
		default:
		}
	} else if e.hasEnded() {
		response.Status = tasktypes.Status_STOPPED
		response.ExitStatus, response.ExitedAt = e.code, timestamppb.New(e.at)
	}
	return response
}

func (e *execution) hasEnded() bool {
	select {
	case <-e.told:
		return true
	default:
		return false
	}
}

// kill sends a signal. One for a process that is being started waits for that, as
// with runc's shim: who gives up a start kills and deletes the process, which would
// run on.
func (e *execution) kill(ctx context.Context, signal uint32, _ bool) error {
	if e.isBegun() {
		if err := await(ctx, e.settled); err != nil {
			return fmt.Errorf("wait for the process's start: %w", err)
		}
	}
	running := e.current()
	switch {
	case running == nil && e.hasEnded():
		return virtcontainers.ErrNotRunning
	case running == nil:
		return errNotStarted
	}
	return running.Signal(ctx, syscall.Signal(signal))
}

func (e *execution) resize(ctx context.Context, rows, columns uint16) error {
	if !e.request.GetTerminal() {
		return nil
	}
	e.sizing.Lock()
	defer e.sizing.Unlock()
	e.mu.Lock()
	running := e.running
	if running == nil {
		e.rows, e.columns = rows, columns
	}
	e.mu.Unlock()
	if running == nil {
		return nil
	}
	return running.Resize(ctx, rows, columns)
}

func (e *execution) closeStdin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stdinClosed = true
	if e.io != nil {
		e.io.CloseStdin()
	}
}

func (e *execution) wait(ctx context.Context) (uint32, time.Time, error) {
	if err := await(ctx, e.told); err != nil {
		return 0, time.Time{}, err
	}
	return e.code, e.at, nil
}

// remove forgets a process that has ended, or was never started.
func (e *execution) remove(ctx context.Context) (uint32, time.Time, error) {
	e.starting.Lock()
	defer e.starting.Unlock()
	running := e.current()
	if running != nil && !e.hasEnded() {
		select {
		case <-running.Done():
		default:
			return 0, time.Time{}, fmt.Errorf("%w: cannot delete a running process", virtcontainers.ErrState)
		}
		if err := await(ctx, e.told); err != nil {
			return 0, time.Time{}, err
		}
	}
	e.mu.Lock()
	again := e.removed
	e.removed = true
	if !e.begun && !again {
		e.end(killedExit, time.Now())
	}
	e.mu.Unlock()
	if again {
		return 0, time.Time{}, e.notFound()
	}
	e.releaseIO()
	e.task.mu.Lock()
	delete(e.task.execs, e.request.GetExecID())
	e.task.mu.Unlock()
	return e.wait(ctx)
}
