package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// Streams hands out the connections of processes' standard streams.
type Streams interface {
	// Claim returns the connection of a stream, which the caller then owns.
	Claim(header protocol.StreamHeader) (net.Conn, error)
}

// Sockets relays connections to the host's unix sockets that bind mounts show.
type Sockets interface {
	// Prepare makes the sockets of a container that is about to be created, and
	// tells which sources of its mounts they replace.
	Prepare(ctx context.Context, id string, binds []*protocol.SocketBind) (map[string]string, error)
	// Enter shows those in bind-mounted directories in a container whose first
	// process, pid, has its mounts, at the destinations of these sources.
	Enter(id string, pid int, destinations map[string]string) error
	// Close ends what Prepare began; there may be nothing.
	Close(id string) error
}

// Runtime owns the containers of the pod. Make it with New; its methods may be
// called from any goroutine.
type Runtime struct {
	log      *slog.Logger
	stateDir string
	streams  Streams
	sockets  Sockets
	oom      *oomWatcher
	pod      podNamespaces
	shared   sharedStorages
	// pinned is the share whose mounts the agent has as well: see PinSources.
	pinned atomic.Value
	// labels are those that containers are given: see ApplyLabels.
	labels  atomic.Pointer[Labels]
	waiters sync.WaitGroup // one for each running process

	mu         sync.Mutex // guards what follows
	containers map[string]*container
}

// container is one container. All fields but execs are set before it can be
// found in Runtime.containers as ready.
type container struct {
	id       string
	lc       *libcontainer.Container // nil while it sleeps: see sleep
	spec     *specs.Spec
	init     *process
	sleep    *sleep   // nil: the first process was made with the container
	mounted  []string // mount points of its storages, in order
	disks    diskNumbers
	hooks    []specs.Hook // startContainer
	state    specs.State  // for hooks
	removing sync.Mutex

	mu      sync.Mutex // guards what follows
	ready   bool
	leaving bool // Remove has begun
	ended   bool // its first process has exited, and the others are being killed
	execs   map[string]*process
	exited  []string // names in execs that have exited, oldest first
}

// New returns a runtime that keeps libcontainer's state below stateDir.
func New(log *slog.Logger, stateDir string, streams Streams, sockets Sockets) (*Runtime, error) {
	watcher, err := newOOMWatcher(log)
	if err != nil {
		return nil, err
	}
	return &Runtime{
		log: log, stateDir: stateDir, streams: streams, sockets: sockets, oom: watcher,
		containers: map[string]*container{},
	}, nil
}

// Create makes a container whose first process waits for Start. When it fails,
// nothing of the container is left.
func (r *Runtime) Create(ctx context.Context, req *protocol.CreateContainerRequest) (err error) {
	id := req.GetContainerId()
	spec, err := parseSpec(req.GetSpecJson())
	if err != nil {
		return fmt.Errorf("create container %q: %w", id, err)
	}
	c, err := r.reserve(id, spec)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("create container %q: %w", id, err)
			r.forget(c)
		}
	}()
	if err := r.adoptMappings(spec.Linux); err != nil {
		return err
	}
	for _, s := range req.GetStorages() {
		if err := r.shared.mount(ctx, s); err != nil {
			return err
		}
		c.mounted = append(c.mounted, s.GetMountPoint())
	}
	if err := r.equip(ctx, c, req.GetBlockDevices()); err != nil {
		return err
	}
	r.chooseLabels(id, spec)
	sleeps := req.GetPause() && maySleep(spec) // before the namespaces become files
	release, err := r.guestSpec(ctx, id, spec)
	if err != nil {
		return err
	}
	defer release()
	r.pin(spec)
	if err := c.takeHooks(req.GetStateJson()); err != nil {
		return err
	}
	destinations, err := r.relaySockets(ctx, id, spec, req.GetSocketBinds())
	if err != nil {
		return err
	}
	if sleeps {
		if err := r.fallAsleep(c, &sleep{sources: destinations}, req); err != nil {
			return err
		}
		c.setReady()
		return nil
	}
	if c.lc, err = r.newLibcontainer(c); err != nil {
		return err
	}
	c.init, err = r.launch(c, spec.Process, launchOptions{
		init: true, stdin: req.GetStdin(), stdout: req.GetStdout(), stderr: req.GetStderr(),
	})
	if err == nil {
		err = c.setDiskWeights(spec.Linux.Resources)
	}
	if err != nil {
		return err
	}
	r.showSockets(c, destinations)
	c.setReady()
	return nil
}

// newLibcontainer makes the library's view of a container whose specification is
// complete.
func (r *Runtime) newLibcontainer(c *container) (*libcontainer.Container, error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: c.id, Spec: c.spec})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	r.dropBindData(c.id, config)
	r.fitMemoryPolicy(c.id, config, "/sys/devices/system/node/online")
	idleWithoutWeight(config.Cgroups)
	config.Hooks = nil // runHooks runs them
	return libcontainer.Create(r.stateDir, c.id, config)
}

// equip gives a container its disks.
func (r *Runtime) equip(ctx context.Context, c *container, devices []*protocol.BlockDevice) (err error) {
	if c.disks, err = awaitDisks(ctx, devices); err != nil {
		return err
	}
	mounted, err := translateDevices(c.spec, c.disks, c.nodesDir())
	if err != nil {
		return err
	}
	return makeNodes(c.spec.Linux, mounted)
}

// nodesDir holds the container's device nodes that are mounted.
func (c *container) nodesDir() string { return filepath.Join(nodesDir, c.id) }

// reserve takes the name id, so that no other call uses it.
func (r *Runtime) reserve(id string, spec *specs.Spec) (*container, error) {
	if !filepath.IsLocal(id) || id == "." || strings.ContainsRune(id, '/') { // it names directories
		return nil, fmt.Errorf("create container: %w: id %q", ErrInvalid, id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.containers[id]; taken {
		return nil, fmt.Errorf("create container: container %q %w", id, ErrExists)
	}
	c := &container{id: id, spec: spec, execs: map[string]*process{}}
	r.containers[id] = c
	return c, nil
}

// get finds a container that was created, for what needs its first process: one
// that sleeps is woken.
func (r *Runtime) get(ctx context.Context, id string) (*container, error) {
	c, err := r.find(id)
	if err != nil {
		return nil, err
	}
	return c, r.wake(ctx, c)
}

// find finds a container that was created, which may sleep.
func (r *Runtime) find(id string) (*container, error) {
	r.mu.Lock()
	c, ok := r.containers[id]
	r.mu.Unlock()
	if !ok || !c.isReady() {
		return nil, fmt.Errorf("container %q %w", id, ErrNotFound)
	}
	return c, nil
}

func (c *container) setReady() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = true
}

func (c *container) isReady() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready
}

// Start runs the startContainer hooks of a created container and lets its first
// process begin its program. When a hook fails the container ends.
func (r *Runtime) Start(ctx context.Context, id string) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	asleep, err := c.whileAsleep(func(s *sleep) error {
		s.started = true
		return nil
	})
	if asleep {
		return startFailure(id, err)
	}
	if err := c.runHooks(ctx); err != nil {
		return startFailure(id, errors.Join(err, c.killAll()))
	}
	err = c.lc.Exec()
	if err == nil {
		err = c.init.awaitProgram(ctx)
	}
	return startFailure(id, err)
}

func startFailure(id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("start container %q: %w", id, err)
}

// Remove kills what is left of a container, waits for its processes, and
// undoes its creation. Output that the host has not read stays available to it
// until it has, or the connection breaks.
func (r *Runtime) Remove(_ context.Context, id string) error { return r.remove(id, false) }

// remove is Remove, also for a guest that ends with its containers.
func (r *Runtime) remove(id string, ends bool) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	c.removing.Lock()
	defer c.removing.Unlock()
	if !c.isReady() {
		return fmt.Errorf("container %q %w", id, ErrNotFound)
	}
	if _, err := c.signalAsleep(unix.SIGKILL); err != nil && !errors.Is(err, ErrNotRunning) {
		return fmt.Errorf("remove container %q: %w", id, err)
	}
	// An exec that was under way may still add a process.
	for p := c.beginRemoval(); p != nil; p = c.running() {
		if err := c.killAll(); err != nil {
			return fmt.Errorf("remove container %q: %w", id, err)
		}
		<-p.done
	}
	if err := r.dismantle(c, ends); err != nil {
		return fmt.Errorf("remove container %q: %w", id, err)
	}
	c.mu.Lock()
	c.ready = false
	c.mu.Unlock()
	r.mu.Lock()
	delete(r.containers, id)
	r.mu.Unlock()
	return nil
}

// dismantle undoes what Create did; it goes on after a failure, and may be
// repeated. What a guest remembers that ends is left to it.
func (r *Runtime) dismantle(c *container, ends bool) error {
	var errs []error
	if c.lc != nil {
		r.oom.remove(c.id)
		errs = append(errs, c.lc.Destroy())
		// Destroy leaves the directory when the first process never existed.
		errs = append(errs, os.RemoveAll(filepath.Join(r.stateDir, c.id)))
	}
	if c.spec.Root != nil {
		if err := c.flushRoot(); err != nil {
			r.log.Warn("container's files may be incomplete on the host", "container", c.id, "error", err)
		}
	}
	errs = append(errs, r.sockets.Close(c.id))
	if !ends {
		r.unpin(c.spec)
		c.forgetRoot()
	}
	for last := len(c.mounted) - 1; last >= 0; last-- {
		if err := r.shared.unmount(c.mounted[last]); err != nil {
			errs = append(errs, err)
			break // it and those below it are left for a repetition
		}
		c.mounted = c.mounted[:last]
	}
	errs = append(errs, os.RemoveAll(c.nodesDir()))
	return errors.Join(errs...)
}

// forget undoes a creation that failed.
func (r *Runtime) forget(c *container) {
	if err := r.dismantle(c, false); err != nil {
		r.log.Warn("could not undo a failed creation", "container", c.id, "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, c.id)
}

// beginRemoval keeps new processes out, and returns one that runs, if any.
func (c *container) beginRemoval() *process {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	return c.running()
}

// running returns a process of the container that has not exited, nil for none.
func (c *container) running() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.execs {
		if !p.exited() {
			return p
		}
	}
	if c.init.exited() {
		return nil
	}
	return c.init
}

// RemoveAll removes every container.
func (r *Runtime) RemoveAll(_ context.Context) error {
	r.mu.Lock()
	var ids []string
	for id := range r.containers {
		ids = append(ids, id)
	}
	r.mu.Unlock()
	var errs []error
	for _, id := range ids {
		if err := r.remove(id, true); err != nil && !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Close removes every container and ends the runtime's goroutines. Nothing may
// be called afterwards.
func (r *Runtime) Close(ctx context.Context) error {
	err := r.RemoveAll(ctx)
	r.pod.close()
	if err == nil {
		r.waiters.Wait()
	}
	r.oom.close()
	return err
}
