package shim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/lifecycle"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/share"
	"kata-runtime/virtcontainers/shim/events"
	"kata-runtime/virtcontainers/shim/rootfs"
	"kata-runtime/virtcontainers/shim/stdio"
)

// killedExit is the exit code of a task that was removed before it ran.
const killedExit = 128 + 9

// oomInterval is the least time between two events of a task's lack of memory. The
// guest says how many there are, and containerd writes each down; what it concludes
// from one it does from many.
const oomInterval = time.Second

// task is a container as containerd knows it. It is the container's pod.Keeper.
type task struct {
	id      string
	service *service
	request *taskapi.CreateTaskRequest
	home    *home
	disks   *rootfs.Disks // of the root file system; nil: it is mounted here
	io      *stdio.Attachment
	hooks   *lifecycle.Hooks
	holder  *heldBy // its own; nil: the pod's stands for it

	cancel  context.CancelCauseFunc // ends its creation
	settled chan struct{}           // closed when its creation has ended

	// container is written before created is set.
	container *pod.Container
	created   bool // guarded by the service's mu
	// told is closed when everything of the task was told to containerd but its
	// deletion.
	told chan struct{}

	// switching is held by Pause and Resume, so that they are told in their order.
	switching sync.Mutex
	// ordering is held while something happens to the task and is told. It is never
	// held for longer than a moment after the task's end.
	ordering sync.Mutex
	ended    bool // its end was told, guarded by ordering

	mu    sync.Mutex // guards execs
	execs map[string]*execution
}

func (s *service) newTask(request *taskapi.CreateTaskRequest, cancel context.CancelCauseFunc) *task {
	return &task{
		id: request.GetID(), service: s, request: request, cancel: cancel, settled: make(chan struct{}),
		told: make(chan struct{}), execs: make(map[string]*execution),
	}
}

func (t *task) isCreated() bool {
	t.service.mu.Lock()
	defer t.service.mu.Unlock()
	return t.created
}

// Claim implements pod.Keeper: the pod's entry in the state directory is enough
// to clean up after a shim that has died.
func (t *task) Claim(context.Context) error { return nil }

// Record implements pod.Keeper: containerd asks, nobody reads a file.
func (t *task) Record(virtcontainers.Status, *virtcontainers.Exit) error { return nil }

// Lost implements pod.Keeper: nobody stands for a container here.
func (t *task) Lost() bool { return false }

// Release implements pod.Keeper.
func (t *task) Release(context.Context, bool) error {
	if t.holder != nil {
		t.home.removeMember(t.id)
		t.holder.Stop()
	}
	return t.unmount()
}

// rootfs is where the container's root file system is mounted, in this process's
// own mount namespace, unless the guest mounts it.
func (t *task) rootfs() string { return filepath.Join(t.request.GetBundle(), "rootfs") }

// mount mounts the root file system, or leaves its disks to the guest.
func (t *task) mount() (err error) {
	if t.disks, err = rootfs.AsDisks(t.request.GetRootfs()); err != nil {
		return invalid(err)
	}
	if !t.mountsRootfs() {
		return nil
	}
	if err := os.Mkdir(t.rootfs(), 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the directory of the root file system: %w", err)
	}
	return ofSnapshot(rootfs.Mount(t.request.GetRootfs(), t.rootfs(), t.service.options.HostMounts))
}

// seeing calls f where paths mean what they mean to containerd now, and what this
// process has mounted is in its place: the root file system, and what the pod has
// for all of its containers. What is mounted there stays there. f starts neither
// goroutines that open paths, nor processes.
func (t *task) seeing(f func() error) error {
	if t.service.options.HostMounts == nil {
		return f()
	}
	own := t.ownMounts()
	var trees []*os.File
	defer func() {
		for _, tree := range trees {
			tree.Close()
		}
	}()
	for _, path := range own {
		tree, err := share.OpenTree(path, true)
		if err != nil {
			return fmt.Errorf("%s of this process: %w", path, err)
		}
		trees = append(trees, tree)
	}
	return namespace.InCopyOfMounts(t.service.options.HostMounts, func() error {
		for i, path := range own {
			if err := attach(trees[i], path); err != nil {
				return fmt.Errorf("%s of this process: %w", path, err)
			}
		}
		return f()
	})
}

// ownMounts are what this process has mounted in its own mount namespace.
func (t *task) ownMounts() []string {
	var own []string
	if t.home != nil && t.home.sandboxed != nil {
		own = append(own, t.home.sandboxed.own...)
	}
	if t.mountsRootfs() {
		own = append(own, t.rootfs())
	}
	return own
}

func attach(tree *os.File, path string) error {
	target, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer target.Close()
	return share.Attach(tree, target)
}

// ofSnapshot gives an error about the mounts of a request, or the files that they
// name, its code.
func ofSnapshot(err error) error {
	switch {
	case errors.Is(err, rootfs.ErrInvalid), errors.Is(err, device.ErrNoDisk):
		return invalid(err)
	case errors.Is(err, os.ErrNotExist): // somebody has removed it
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	default:
		return err
	}
}

// mountsRootfs tells whether the root file system is mounted here.
func (t *task) mountsRootfs() bool { return len(t.request.GetRootfs()) > 0 && t.disks == nil }

func (t *task) unmount() error {
	if !t.mountsRootfs() {
		return nil
	}
	return rootfs.Unmount(t.rootfs())
}

// pid is what stands for the task on the host.
func (t *task) pid() uint32 {
	if t.holder != nil {
		return uint32(t.holder.PID())
	}
	return uint32(t.home.holder.PID())
}

// publish tells containerd.
func (t *task) publish(topic string, event publishable) { t.service.publisher.Publish(topic, event) }

// watch tells containerd of the task's lack of memory and of its end.
func (t *task) watch() {
	defer close(t.told)
	ooms, stop := t.container.WatchOOM()
	defer stop()
	var told time.Time
	for range ooms { // until its end, after the last
		if now := time.Now(); now.Sub(told) >= oomInterval {
			told = now
			t.publish(events.TopicOOM, &eventsapi.TaskOOM{ContainerID: t.id})
		}
	}
	<-t.container.Finished()
	t.awaitExecs()
	exit := t.container.Init().Exit()
	t.ordering.Lock() // an event of its start comes before
	defer t.ordering.Unlock()
	t.ended = true
	t.publish(events.TopicExit, &eventsapi.TaskExit{
		ContainerID: t.id, ID: t.id, Pid: t.pid(), ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At),
	})
}

// awaitExecs waits until the ends of the other processes were told, once the
// container takes no more of them.
func (t *task) awaitExecs() {
	for _, e := range t.executions() {
		if e.isLaunched() {
			<-e.told
		}
	}
}

func (t *task) executions() []*execution {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.execs))
}

// process is what calls act on: a task's first process, or one that was added.
type process interface {
	reportedPID() uint32
	state() *taskapi.StateResponse
	kill(ctx context.Context, signal uint32, all bool) error
	resize(ctx context.Context, rows, columns uint16) error
	closeStdin()
	wait(ctx context.Context) (code uint32, at time.Time, err error)
	start(ctx context.Context) error
	remove(ctx context.Context) (code uint32, at time.Time, err error)
}

// find returns a task's process: the first one without execID.
func (s *service) find(id, execID string) (process, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, err
	}
	if execID == "" {
		return t, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.execs[execID]
	if !ok {
		return nil, fmt.Errorf("process %q of task %q: %w", execID, id, virtcontainers.ErrNotFound)
	}
	return e, nil
}

func (t *task) state() *taskapi.StateResponse {
	response := &taskapi.StateResponse{
		ID: t.id, Bundle: t.request.GetBundle(), Pid: t.pid(), Status: taskStatus(t.container.Status()),
		Stdin: t.request.GetStdin(), Stdout: t.request.GetStdout(), Stderr: t.request.GetStderr(), Terminal: t.request.GetTerminal(),
	}
	if response.GetStatus() == tasktypes.Status_STOPPED {
		exit := t.container.Init().Exit()
		response.ExitStatus, response.ExitedAt = uint32(exit.Code), timestamppb.New(exit.At)
	}
	return response
}

func taskStatus(status virtcontainers.Status) tasktypes.Status {
	switch status {
	case virtcontainers.StatusCreating, virtcontainers.StatusCreated:
		return tasktypes.Status_CREATED
	case virtcontainers.StatusRunning:
		return tasktypes.Status_RUNNING
	case virtcontainers.StatusPaused:
		return tasktypes.Status_PAUSED
	case virtcontainers.StatusStopped:
		return tasktypes.Status_STOPPED
	default:
		return tasktypes.Status_UNKNOWN
	}
}

func (t *task) start(ctx context.Context) error {
	t.ordering.Lock()
	defer t.ordering.Unlock()
	err := t.container.Start(ctx)
	ends := err != nil && t.hooks.EndsContainer(err)
	if err == nil {
		err = t.hooks.Poststart(ctx)
		ends = err != nil
	}
	if ends { // as with runc; containerd deletes it
		killErr := t.container.Signal(context.WithoutCancel(ctx), syscall.SIGKILL, true)
		if killErr != nil && !errors.Is(killErr, virtcontainers.ErrNotRunning) {
			err = errors.Join(err, killErr)
		}
	}
	if err != nil {
		return err
	}
	t.publish(events.TopicStart, &eventsapi.TaskStart{ContainerID: t.id, Pid: t.pid()})
	return nil
}

func (t *task) reportedPID() uint32 { return t.pid() }

func (t *task) closeStdin() { t.io.CloseStdin() }

// wait waits for the task's end, also of its output.
func (t *task) wait(ctx context.Context) (uint32, time.Time, error) {
	if err := await(ctx, t.told); err != nil {
		return 0, time.Time{}, err
	}
	exit := t.container.Init().Exit()
	return uint32(exit.Code), exit.At, nil
}

// await waits for a channel to be closed. One that is closed is no error, whatever
// ctx says.
func await(ctx context.Context, closed <-chan struct{}) error {
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-closed:
		return nil
	default:
		return context.Cause(ctx)
	}
}

// remove deletes a task that has ended, or was never started.
func (t *task) remove(ctx context.Context) (uint32, time.Time, error) {
	status := t.container.Status()
	if status == virtcontainers.StatusRunning || status == virtcontainers.StatusPaused {
		return 0, time.Time{}, fmt.Errorf("%w: cannot delete a task that is %s", virtcontainers.ErrState, status)
	}
	// Force ends what was never started. What has stopped is not worth the machine of
	// the others, if the guest has a reason to refuse.
	if _, err := t.home.pod.Remove(ctx, t.id, status != virtcontainers.StatusStopped); err != nil {
		if errors.Is(err, virtcontainers.ErrNotFound) || !t.isGone() {
			return 0, time.Time{}, err
		}
		// Nobody could try again: what is left goes with this process.
		t.service.options.Log.Error("something is left of a container", "container", t.id, "error", err)
	}
	<-t.told
	t.forgetProcesses()
	t.hooks.Poststop(context.WithoutCancel(ctx))
	t.service.drop(t)
	exit := t.container.Init().Exit()
	t.publish(events.TopicDelete, &eventsapi.TaskDelete{
		ContainerID: t.id, Pid: t.pid(), ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At),
	})
	select {
	case <-t.home.pod.Done(): // it was the last
		if t.home.sandboxed == nil { // when containerd hears of it, nothing is left
			_ = t.service.leavePod(context.WithoutCancel(ctx), t.home) // close has logged it
		}
	default:
	}
	return uint32(exit.Code), exit.At, nil
}

// forgetProcesses lets go of what is left of the processes of a task that has ended.
func (t *task) forgetProcesses() {
	for _, e := range t.executions() {
		e.forget()
	}
	t.io.Release()
}

// isGone tells that the pod does not know the container any more.
func (t *task) isGone() bool {
	_, err := t.home.pod.Container(t.id)
	return errors.Is(err, virtcontainers.ErrNotFound)
}

// kill sends a signal to a task. One that has ended and was not deleted takes it, as
// a zombie does: containerd waits for the end that was told, or is, and CRI-O could
// not stop a container that has just ended (runc's shim says "process already
// finished", for which CRI-O's type vm has no ear).
func (t *task) kill(ctx context.Context, signal uint32, all bool) error {
	err := t.container.Signal(ctx, syscall.Signal(signal), all)
	if errors.Is(err, virtcontainers.ErrNotRunning) {
		return nil
	}
	return err
}

// endKilled ends a container as a signal does that nobody has sent to it.
func (t *task) endKilled() error {
	err := t.kill(context.Background(), uint32(syscall.SIGKILL), true)
	if t.container.Status() == virtcontainers.StatusStopped {
		return nil // with its machine
	}
	return err
}

// resize tells the terminal's size. A task without one takes every size, as with
// runc's shim.
func (t *task) resize(ctx context.Context, rows, columns uint16) error {
	if !t.request.GetTerminal() {
		return nil
	}
	return t.container.Init().Resize(ctx, rows, columns)
}
