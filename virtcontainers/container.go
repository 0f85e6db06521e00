package virtcontainers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/hooks"
	"kata-runtime/virtcontainers/share"
	"kata-runtime/virtcontainers/sockets"
)

// Status is where a container is in its life, in the words of the OCI
// runtime-spec ("State").
type Status string

// The statuses.
const (
	StatusCreating Status = "creating"
	StatusCreated  Status = "created"
	StatusRunning  Status = "running"
	StatusPaused   Status = "paused"
	StatusStopped  Status = "stopped"
)

// ContainerOptions are what CreateContainer needs.
type ContainerOptions struct {
	ID string
	// Spec is the guest's view of the OCI config, as JSON.
	Spec []byte
	// State is what startContainer hooks are told of the container: a
	// specs.State as JSON.
	State []byte
	// ShareName is the container's directory in the share, of share.NewName. Empty:
	// ID, for a container that is the first of that id.
	ShareName string
	// Mounts are attached to the share; their trees are closed in any case.
	Mounts []share.Mount
	// Root is the root file system, if it is not among Mounts; its images are
	// closed in any case.
	Root *Root
	// Storages are mounted in the guest, after the root's.
	Storages []*protocol.Storage
	// Devices are block devices of the host, which Spec names by their numbers.
	Devices []device.Block
	IO      IO
	// Pause: the program does nothing, so that its process need not be there before
	// something needs it.
	Pause bool
}

// Container is one container of a sandbox.
type Container struct {
	id        string
	shareName string // its directory in the share
	sandbox   *Sandbox
	init      *Process
	// startBound is how long startContainer hooks may take; negative: as long
	// as they like.
	startBound time.Duration
	starting   sync.Mutex // held by Start
	oom        oomWatchers
	sockets    *sockets.Container // nil when it can reach none

	updating  sync.Mutex // held while limits change
	switching sync.Mutex // held by Pause and Resume

	mu     sync.Mutex // guards what follows
	status Status
	// thawed is closed when the container leaves StatusPaused; nil before its
	// first pause.
	thawed chan struct{}
}

// CreateContainer makes a container whose program waits for Start. It may be
// called once the sandbox was assigned, while the machine still boots. An error is a *StageError, or wraps
// ErrExists; nothing of the container is left then.
func (s *Sandbox) CreateContainer(ctx context.Context, options ContainerOptions) (*Container, error) {
	c := &Container{id: options.ID, shareName: cmp.Or(options.ShareName, options.ID), sandbox: s, status: StatusCreating, startBound: startBound(options.Spec)}
	if err := s.add(c); err != nil {
		closeTrees(options.Mounts)
		options.Root.Close()
		return nil, err
	}
	if err := s.create(ctx, c, options); err != nil {
		s.drop(c)
		return nil, err
	}
	return c, nil
}

func (s *Sandbox) create(ctx context.Context, c *Container, options ContainerOptions) (err error) {
	reserved := false
	defer func() {
		if !reserved {
			options.Root.Close()
		}
	}()
	if s.life.Err() != nil { // nothing is shared with a machine that is gone
		closeTrees(options.Mounts)
		return s.callFailure(StagePrepare, ErrMachineEnded)
	}
	assignment, err := s.assignedTo()
	if err != nil {
		closeTrees(options.Mounts)
		return &StageError{Stage: StagePrepare, Err: err}
	}
	done := s.watch.begin(StagePrepare)
	c.sockets, err = s.findSockets(options) // before the share closes the trees
	if err != nil {
		closeTrees(options.Mounts)
	} else {
		err = assignment.Share.Add(c.shareName, options.Mounts)
	}
	done()
	if err != nil {
		c.sockets.Close()
		return &StageError{Stage: StagePrepare, Err: err}
	}
	defer func() {
		if err != nil {
			c.sockets.Close()
			err = errors.Join(err, assignment.Share.Remove(c.shareName))
		}
	}()
	if err := s.Ready(ctx); err != nil {
		return err
	}
	if err := s.syncNetwork(ctx); err != nil {
		return err
	}
	done = s.watch.begin(StageCreateContainer)
	defer done()
	ctx, cancel := s.callWithin(ctx, copyBound(options.Mounts))
	defer cancel()
	defer func() {
		if err != nil {
			s.unplug(ctx, c.id)
			s.forgetSize(c.id)
		}
	}()
	resources, err := linuxResources(options.Spec)
	if err == nil {
		err = s.growFor(ctx, c.id, resources)
	}
	if err != nil {
		return s.callFailure(StageCreateContainer, err)
	}
	reserved = true // unplug closes what is not plugged in
	disks, storages, err := s.plugIn(ctx, c.id, options.Devices, options.Root)
	if err != nil {
		return s.callFailure(StageCreateContainer, err)
	}
	process, err := s.openProcess(ctx, c.id, "", options.IO)
	if err != nil {
		return s.callFailure(StageCreateContainer, err)
	}
	_, err = s.agent.CreateContainer(ctx, &protocol.CreateContainerRequest{
		ContainerId:  c.id,
		SpecJson:     options.Spec,
		StateJson:    options.State,
		Stdin:        options.IO.Stdin,
		Stdout:       options.IO.Stdout,
		Stderr:       options.IO.Stderr,
		Storages:     slices.Concat(storages, options.Storages),
		BlockDevices: disks,
		SocketBinds:  c.sockets.Binds(),
		Pause:        options.Pause,
	})
	if err != nil {
		process.Streams.Close()
		return s.callFailure(StageCreateContainer, err)
	}
	s.detachTemporary(c, options.Mounts)
	c.init = process
	c.setStatus(StatusCreated)
	s.followSockets(c)
	s.background.Go(func() {
		process.await(s)
		c.oom.end(process.exit)
		c.setStatus(StatusStopped)
		close(process.done)
	})
	return nil
}

// copyBound is how long the guest may take to copy what it is shown for a time.
func copyBound(mounts []share.Mount) time.Duration {
	if slices.ContainsFunc(mounts, func(m share.Mount) bool { return m.Temporary }) {
		return copyTimeout
	}
	return 0
}

// detachTemporary takes from the share what the container's creation alone
// needed. What cannot be detached now goes with the container.
func (s *Sandbox) detachTemporary(c *Container, mounts []share.Mount) {
	for _, mount := range mounts {
		if !mount.Temporary {
			continue
		}
		if err := s.assignment.Share.Detach(c.shareName, mount.Name); err != nil {
			s.log.Warn("the guest still sees what it has copied", "container", c.id, "error", err)
		}
	}
}

// add claims the container's id.
func (s *Sandbox) add(c *Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.containers[c.id]; taken {
		return fmt.Errorf("container %q: %w", c.id, ErrExists)
	}
	s.containers[c.id] = c
	return nil
}

func (s *Sandbox) drop(c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, c.id)
}

// ID is the container's name.
func (c *Container) ID() string { return c.id }

// Status tells where the container is in its life.
func (c *Container) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

func (c *Container) setStatus(status Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.become(status)
}

// become changes the status. The caller holds mu.
func (c *Container) become(status Status) {
	if c.status == StatusPaused {
		close(c.thawed)
	}
	if status == StatusPaused {
		c.thawed = make(chan struct{})
	}
	c.status = status
}

// alive wraps ErrNotRunning unless the container has processes.
func (c *Container) alive() error {
	switch status := c.Status(); status {
	case StatusCreated, StatusRunning, StatusPaused:
		return nil
	case StatusCreating, StatusStopped:
		return fmt.Errorf("%w: it is %s", ErrNotRunning, status)
	default:
		return fmt.Errorf("%w: it is in the unknown status %q", ErrNotRunning, status)
	}
}

// Init is the container's first process.
func (c *Container) Init() *Process { return c.init }

// Start runs the container's startContainer hooks and its program. It wraps
// ErrState unless the container is in StatusCreated. What has begun goes on
// when ctx ends: it could not be begun again.
func (c *Container) Start(ctx context.Context) error {
	c.starting.Lock()
	defer c.starting.Unlock() // a second Start waits and then finds it running
	if status := c.Status(); status != StatusCreated {
		return fmt.Errorf("%w: cannot start a container that is %s", ErrState, status)
	}
	// Callers may have added interfaces since the creation.
	if err := c.sandbox.syncNetwork(ctx); err != nil {
		return err
	}
	done := c.sandbox.watch.begin(StageStartContainer)
	defer done()
	ctx, cancel := c.sandbox.callWithin(context.WithoutCancel(ctx), c.startBound)
	defer cancel()
	ctx, cancelAtEnd := c.init.untilEnd(ctx)
	defer cancelAtEnd()
	if _, err := c.sandbox.agent.StartContainer(ctx, &protocol.ContainerRequest{ContainerId: c.id}); err != nil {
		return c.sandbox.callFailure(StageStartContainer, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == StatusCreated { // it may have ended already
		c.status = StatusRunning
	}
	return nil
}

// startBound adds up the timeouts of the startContainer hooks in a spec.
func startBound(spec []byte) time.Duration {
	var config struct {
		Hooks *specs.Hooks `json:"hooks"`
	}
	if err := json.Unmarshal(spec, &config); err != nil || config.Hooks == nil {
		return 0 // the agent reports what it cannot read
	}
	bound, ok := hooks.Bound(config.Hooks.StartContainer)
	if !ok {
		return -1
	}
	return bound
}

// Signal sends a signal to the container's init, or with all to every process
// of it. It wraps ErrNotRunning once the container has stopped.
func (c *Container) Signal(ctx context.Context, signal syscall.Signal, all bool) error {
	if c.init == nil {
		return fmt.Errorf("%w: it is %s", ErrNotRunning, c.Status())
	}
	return c.init.signal(ctx, signal, all)
}

// Delete undoes the container's creation. It wraps ErrState unless the
// container has stopped. Idempotent. A guest may have a reason to refuse, such as
// a mount that is busy: then it may be tried again. See DeleteForSure.
func (c *Container) Delete(ctx context.Context) error {
	if err := c.deletable(); err != nil {
		return err
	}
	return c.undo(ctx, c.removeInGuest(ctx))
}

// DeleteForSure is Delete for a container that must go: when the guest does not
// remove it, the guest does not work any more, or lies, and its machine is
// ended, with all other containers. A caller who loses patience, by ctx, gets an
// error as from Delete, and the machine stays.
func (c *Container) DeleteForSure(ctx context.Context) error {
	if err := c.deletable(); err != nil {
		return err
	}
	err := c.removeInGuest(ctx)
	if err != nil && ctx.Err() == nil {
		c.sandbox.giveUp(fmt.Errorf("%w: the guest does not let go of the stopped container %s: %w", ErrMachineEnded, c.id, err))
		err = c.sandbox.stopMachine(context.WithoutCancel(ctx)) // what the guest holds on the host goes with it
	}
	return c.undo(ctx, err)
}

func (c *Container) deletable() error {
	if status := c.Status(); status != StatusStopped {
		return fmt.Errorf("%w: cannot delete a container that is not stopped: %s", ErrState, status)
	}
	return nil
}

// removeInGuest undoes the agent's part of the creation. A machine that has
// ended, or ends meanwhile, has nothing left to be undone.
func (c *Container) removeInGuest(ctx context.Context) error {
	if c.sandbox.life.Err() != nil {
		return nil
	}
	ctx, cancel := c.sandbox.call(ctx)
	defer cancel()
	_, err := c.sandbox.agent.RemoveContainer(ctx, &protocol.ContainerRequest{ContainerId: c.id})
	if err != nil && grpcstatus.Code(err) != codes.NotFound && !c.sandbox.endedWith(err) {
		return fmt.Errorf("remove the container in the guest: %w", agentErr(err))
	}
	return nil
}

// undo undoes the host's part of the creation. With guestErr, what the guest's
// part has failed for, the container stays known.
func (c *Container) undo(ctx context.Context, guestErr error) error {
	errs := []error{guestErr}
	c.sockets.Close()
	c.sandbox.unplug(ctx, c.id)
	c.sandbox.forgetSize(c.id)
	errs = append(errs, c.sandbox.assignment.Share.Remove(c.shareName))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	c.sandbox.drop(c)
	return nil
}

// call bounds a call of the agent by the caller's patience, the machine's life
// and callTimeout.
func (s *Sandbox) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return s.callWithin(ctx, 0)
}

// callWithin is call for one that has something to wait for, which takes at
// most as long as extra; negative: for ever.
func (s *Sandbox) callWithin(ctx context.Context, extra time.Duration) (context.Context, context.CancelFunc) {
	cancelTimeout := func() {}
	if extra >= 0 {
		timeout := callTimeout + extra
		ctx, cancelTimeout = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the agent did not answer within %v", timeout))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })
	return ctx, func() {
		stop()
		cancel(nil)
		cancelTimeout()
	}
}

// newsTimeout is how long the news of the machine's end may take when its agent's
// connection has ended.
const newsTimeout = 3 * time.Second

// reasonTimeout is the same where a machine that goes on is ended: for the connection,
// unless there is a better reason by then.
const reasonTimeout = newsTimeout / 20

// callFailure names the stage of a failed call of the agent, and puts the
// machine's own end before the error that it caused.
func (s *Sandbox) callFailure(stage Stage, err error) error {
	if s.endedWith(err) {
		return &StageError{Stage: stage, Err: context.Cause(s.life), Console: s.options.Machine.ConsoleTail()}
	}
	return &StageError{Stage: stage, Err: agentErr(err)}
}

// endedWith tells whether the machine has ended when a call of its agent has failed:
// the agent's connection ends a moment before it is known why.
func (s *Sandbox) endedWith(err error) bool { return s.endedWithin(err, newsTimeout) }

// endedWithin is endedWith with another bound.
func (s *Sandbox) endedWithin(err error, patience time.Duration) bool {
	if errors.Is(err, ttrpc.ErrClosed) {
		s.awaitNews(patience)
	}
	return s.life.Err() != nil
}

// awaitNews waits for the machine's end after what ends with it, so that its reason is
// known.
func (s *Sandbox) awaitNews(patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.life.Done():
	case <-timer.C:
	}
}

func closeTrees(mounts []share.Mount) {
	for _, mount := range mounts {
		mount.Tree.Close()
	}
}
