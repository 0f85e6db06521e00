package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/network"
)

// errRemoved is why a creation failed during which the container was removed.
var errRemoved = errors.New("the container was deleted meanwhile")

// Container is one container of a pod.
type Container struct {
	id     string
	pod    *Pod
	keeper Keeper

	finished chan struct{}  // closed when its end is recorded and its output taken
	overdue  chan struct{}  // closed killTimeout after its end: the others' ends are known by then
	gone     chan struct{}  // closed when nothing is left of it
	running  sync.WaitGroup // its other processes, until their output is taken
	removing sync.Mutex     // held while the container is being removed
	dooming  sync.Once      // done with the first SIGKILL

	// core and attachment are written before it is live.
	core       *virtcontainers.Container
	attachment Attachment

	// What follows is guarded by the pod's mu.
	state state
	// cancel ends the work of reserving and creating.
	cancel context.CancelCauseFunc
	// resolvConf is its resolv.conf, open with O_PATH; nil without.
	resolvConf *os.File
	// execs are its other processes; abandoned tells that nobody waits for their
	// output any more.
	execs     map[*Exec]struct{}
	abandoned bool
}

// Reserve takes an id for a container that Create makes, and lets its keeper
// claim what it needs. A taken id is ErrExists; a pod that ends is ErrEnding.
func (p *Pod) Reserve(ctx context.Context, id string, keeper Keeper) (*Container, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &Container{
		id: id, pod: p, keeper: keeper, state: reserving, cancel: cancel,
		finished: make(chan struct{}), overdue: make(chan struct{}), gone: make(chan struct{}),
		execs: make(map[*Exec]struct{}),
	}
	if err := p.add(c); err != nil {
		return nil, err
	}
	err := keeper.Claim(ctx)
	if err == nil {
		err = c.commit(ctx, reserved)
	}
	if err != nil {
		return nil, errors.Join(err, c.undo(ctx))
	}
	return c, nil
}

func (p *Pod) add(c *Container) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return ErrEnding
	}
	if _, known := p.containers[c.id]; known {
		return fmt.Errorf("container %q: %w", c.id, virtcontainers.ErrExists)
	}
	p.containers[c.id] = c
	p.used = true
	return nil
}

// commit ends the work that Remove could cancel, unless it has.
func (c *Container) commit(ctx context.Context, to state) error {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !c.move(to) {
		return fmt.Errorf("%w: the container is %s", virtcontainers.ErrState, c.state)
	}
	c.cancel = nil
	return nil
}

// undo takes back a container that does not come to be.
func (c *Container) undo(ctx context.Context) error {
	c.pod.mu.Lock()
	last := c.leave()
	c.pod.mu.Unlock()
	return c.depart(context.WithoutCancel(ctx), last)
}

// leave begins to let go of the container, and tells whether the pod ends with
// it. The caller holds the pod's mu.
func (c *Container) leave() (last bool) {
	c.move(leaving)
	c.cancel = nil
	c.dropResolvConf()
	if len(c.pod.containers) == 1 && !c.pod.options.KeepEmpty {
		c.pod.ending = true // what comes now would find a pod that its keeper has let go
		return true
	}
	return false
}

// depart completes leave.
func (c *Container) depart(ctx context.Context, last bool) error {
	err := c.keeper.Release(ctx, last)
	c.pod.mu.Lock()
	delete(c.pod.containers, c.id)
	c.move(gone)
	c.pod.mu.Unlock()
	close(c.gone)
	c.pod.stopIfIdle(ctx)
	c.pod.EndIfUnused()
	return err
}

// Request is what Create needs.
type Request struct {
	// Options describe the container; the pod sets their ID.
	Options virtcontainers.ContainerOptions
	// Network is the namespace of the pod's first container; nil for others, and
	// where the pod has none.
	Network *network.Namespace
	// ResolvConf names the mount of Options that is the container's resolv.conf; ""
	// without.
	ResolvConf string
	// Attachment is its first process's.
	Attachment Attachment
}

// release closes what Create has taken over, where nobody else has.
func (r *Request) release() {
	for _, mount := range r.Options.Mounts {
		closeFile(mount.Tree)
	}
	r.Options.Root.Close()
	if r.Network != nil {
		_ = r.Network.Close() // a descriptor
	}
}

// Create makes the reserved container, whose program waits for Start. It takes
// over the mounts' trees, the root's images and the namespace in any case. After an error nothing is
// left of the container.
func (c *Container) Create(ctx context.Context, request Request) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := c.begin(cancel); err != nil {
		request.release()
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.undo(ctx))
		}
	}()
	conf, err := keepResolvConf(request.ResolvConf, request.Options.Mounts)
	if err != nil {
		request.release()
		return err
	}
	c.pod.mu.Lock()
	c.resolvConf = conf // leave closes it
	c.pod.mu.Unlock()
	namespace := request.Network
	request.Network = nil
	if err := c.pod.joinNetwork(namespace); err != nil {
		request.release()
		return err
	}
	request.Options.ID = c.id
	core, err := c.pod.sandbox.CreateContainer(ctx, request.Options)
	if err != nil {
		return err
	}
	return c.adopt(ctx, core, request.Attachment)
}

func (c *Container) begin(cancel context.CancelCauseFunc) error {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if c.state == leaving || c.state == gone {
		return errRemoved
	}
	if !c.move(creating) {
		return fmt.Errorf("%w: the container is %s", virtcontainers.ErrState, c.state)
	}
	c.cancel = cancel
	return nil
}

// adopt gives the created container's streams to its attachment and begins to
// watch for its end.
func (c *Container) adopt(ctx context.Context, core *virtcontainers.Container, attachment Attachment) error {
	kill := func(ctx context.Context) error { return c.pod.killForSure(ctx, core) }
	c.core, c.attachment = core, attachment
	err := attachment.Begin(ctx, core.Init(), kill)
	if err == nil {
		err = c.keeper.Record(virtcontainers.StatusCreated, nil)
	}
	if err == nil {
		err = c.commit(ctx, live)
	}
	if err != nil {
		ctx = context.WithoutCancel(ctx)
		if killErr := kill(ctx); killErr == nil {
			err = errors.Join(err, core.Delete(ctx))
		} else {
			err = errors.Join(err, killErr)
		}
		attachment.Close(virtcontainers.Exit{Code: 128 + uint8(syscall.SIGKILL)})
		return &virtcontainers.StageError{Stage: virtcontainers.StageCreateContainer, Err: err}
	}
	c.pod.background.Go(c.watch)
	return nil
}

// watch records the container's end and tells its attachment; then it stops a
// machine in which nothing can run any more.
func (c *Container) watch() {
	<-c.core.Init().Done()
	exit := c.core.Init().Exit()
	if err := c.keeper.Record(virtcontainers.StatusStopped, &exit); err != nil {
		c.pod.log.Error("record the container's end", "container", c.id, "error", err)
	}
	c.pod.log.Info("container ended", "container", c.id, "code", exit.Code, "oom", exit.OOMKilled, "reason", exit.Reason)
	overdue := time.AfterFunc(killTimeout, func() { close(c.overdue) })
	defer overdue.Stop()
	c.attachment.Close(exit)
	c.pod.mu.Lock()
	c.move(ended)
	c.pod.mu.Unlock()
	c.running.Wait() // the agent ends them with the init, and tells so
	close(c.finished)
	c.pod.stopIfIdle(context.Background())
}

// ID is the container's name.
func (c *Container) ID() string { return c.id }

// Status tells where the container is in its life.
func (c *Container) Status() virtcontainers.Status { return c.core.Status() }

// Init is the container's first process.
func (c *Container) Init() *virtcontainers.Process { return c.core.Init() }

// Finished is closed when the container's end is recorded, and the output of all
// its processes taken or given up.
func (c *Container) Finished() <-chan struct{} { return c.finished }

// Start runs the container's program: see virtcontainers.Container.Start.
func (c *Container) Start(ctx context.Context) error {
	if err := c.pod.refreshServices(); err != nil {
		return err
	}
	if err := c.core.Start(ctx); err != nil {
		return err
	}
	return c.keeper.Record(virtcontainers.StatusRunning, nil)
}

// Pause freezes the container's processes: see virtcontainers.Container.Pause.
func (c *Container) Pause(ctx context.Context) error {
	if err := c.core.Pause(ctx); err != nil {
		return err
	}
	return c.keeper.Record(virtcontainers.StatusPaused, nil)
}

// Resume undoes Pause: see virtcontainers.Container.Resume.
func (c *Container) Resume(ctx context.Context) error {
	if err := c.core.Resume(ctx); err != nil {
		return err
	}
	return c.keeper.Record(virtcontainers.StatusRunning, nil)
}

// Signal sends a signal: see virtcontainers.Container.Signal. A container that SIGKILL
// does not end loses its machine, a while later.
func (c *Container) Signal(ctx context.Context, signal syscall.Signal, all bool) error {
	if signal == syscall.SIGKILL {
		c.doom()
	}
	return c.core.Signal(ctx, signal, all)
}

// Update changes limits: see virtcontainers.Container.Update.
func (c *Container) Update(ctx context.Context, resources []byte) error {
	return c.core.Update(ctx, resources)
}

// Stats are the container's statistics: see virtcontainers.Container.Stats.
func (c *Container) Stats(ctx context.Context) ([]byte, error) { return c.core.Stats(ctx) }

// Processes lists the guest's processes: see virtcontainers.Container.Processes.
func (c *Container) Processes(ctx context.Context) ([]*protocol.ProcessInfo, error) {
	return c.core.Processes(ctx)
}

// WatchOOM tells of lack of memory: see virtcontainers.Container.WatchOOM.
func (c *Container) WatchOOM() (events <-chan struct{}, stop func()) { return c.core.WatchOOM() }
