package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/store"
)

// drainTimeout bounds how long the deletion of a stopped container waits for
// its output to be read by the caller.
const drainTimeout = 10 * time.Second

// container is one container with what the supervisor adds to it: its state on
// disk and its stand-in.
type container struct {
	entry   *store.Entry
	group   *cgroup.Group // of the host, for its stand-ins; written before core
	standIn *standIn      // written before core
	// hookState is what hooks in the guest are told; written before core.
	hookState []byte
	finished  chan struct{}  // closed when its end is recorded and its output taken
	execs     sync.WaitGroup // its other processes, until their output is taken
	overdue   chan struct{}  // closed killTimeout after its end: the others' ends are known by then

	// What follows is guarded by the server's mu.
	id      string                    // empty: the pod's first, which was not asked for yet
	owner   *commandChannel           // of the command that makes it; set with id
	channel *channel.Conn             // its stand-in's; set with id
	core    *virtcontainers.Container // nil until it is created
	cancel  context.CancelCauseFunc   // ends the work on its creation; nil: reserved, for a creation to come
	leaving bool                      // its reservation is being undone
	gone    chan struct{}             // closed when its creation has failed and is undone
	ended   bool                      // its init has exited: no process is added any more
	// resolvConf is its resolv.conf, open with O_PATH; nil without.
	resolvConf *os.File
	// execStandIns are those of its other processes, by their pids; abandoned
	// tells that nobody waits for them any more.
	execStandIns map[int]*standIn
	abandoned    bool

	mu    sync.Mutex // guards state
	state store.State

	removing sync.Mutex // held while the container is being deleted
}

func newContainer(entry *store.Entry) *container {
	return &container{
		entry: entry, finished: make(chan struct{}), gone: make(chan struct{}), overdue: make(chan struct{}),
		execStandIns: make(map[int]*standIn),
	}
}

// forget undoes reserve.
func (s *server) forget(ctx context.Context, c *container) error {
	s.mu.Lock()
	delete(s.containers, c.id)
	if c.resolvConf != nil {
		c.resolvConf.Close()
		c.resolvConf = nil
	}
	last := len(s.containers) == 0
	s.mu.Unlock()
	if c.id != s.id {
		ctx, cancel := context.WithTimeout(ctx, cgroupTimeout)
		defer cancel()
		return errors.Join(c.group.Remove(ctx), c.entry.Remove())
	}
	if last {
		return nil // the pod's directory goes with the pod
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Deleted = true
	return c.entry.Save(c.state)
}

func (s *server) lookup(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok || c.core == nil {
		return nil, fmt.Errorf("container %q: %w", id, virtcontainers.ErrNotFound)
	}
	return c, nil
}

// saveInitial records the container with the config that it was made from:
// later changes of the bundle have no effect.
func (s *server) saveInitial(c *container, config []byte) error {
	if err := c.entry.SaveConfig(config); err != nil {
		return err
	}
	start, err := store.StartTime(os.Getpid())
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.SandboxID = s.id
	c.state.SupervisorPID, c.state.SupervisorStartTime = os.Getpid(), start
	c.state.Status = virtcontainers.StatusCreating
	return c.entry.Save(c.state)
}

func (s *server) setStatus(c *container, status virtcontainers.Status) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Status == virtcontainers.StatusStopped {
		return nil // it has ended meanwhile, and stays ended
	}
	c.state.Status = status
	return c.entry.Save(c.state)
}

// watchExit records the container's end and tells its stand-in; then it stops
// a machine in which nothing can run any more.
func (s *server) watchExit(c *container) {
	<-c.core.Init().Done()
	exit := c.core.Init().Exit()
	c.mu.Lock()
	c.state.Status, c.state.ExitCode = virtcontainers.StatusStopped, int(exit.Code)
	err := c.entry.Save(c.state)
	c.mu.Unlock()
	if err != nil {
		s.log.Error("record the container's end", "container", c.id, "error", err)
	}
	s.log.Info("container ended", "container", c.id, "code", exit.Code, "oom", exit.OOMKilled, "reason", exit.Reason)
	overdue := time.AfterFunc(killTimeout, func() { close(c.overdue) })
	defer overdue.Stop()
	c.standIn.close(exit)
	s.mu.Lock()
	c.ended = true
	s.mu.Unlock()
	c.execs.Wait() // the agent ends them with the init, and tells so
	close(c.finished)
	s.stopIfIdle(context.Background())
}

// stopIfIdle stops a machine in which no container can run any more.
func (s *server) stopIfIdle(ctx context.Context) {
	if !s.idle() {
		return
	}
	if err := s.sandbox.Stop(ctx); err != nil {
		s.log.Error("stop the idle machine", "error", err)
	}
}

// idle tells whether there are containers and all have stopped.
func (s *server) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.core == nil || c.core.Status() != virtcontainers.StatusStopped {
			return false
		}
	}
	return len(s.containers) > 0
}

// removal tells what remove has done.
type removal struct {
	last     bool // the container was the last one
	creating bool // its creation was under way, and fails
}

// remove deletes a container, with force also one that still runs, or that is
// being created.
func (s *server) remove(ctx context.Context, id string, force bool) (removal, error) {
	if force {
		if s.endUnasked(id) {
			return removal{last: true, creating: true}, nil
		}
		if ended, err := s.endCreation(ctx, id); ended || err != nil {
			return removal{last: err == nil && s.count() == 0, creating: true}, err
		}
	}
	c, err := s.lookup(id)
	if err != nil {
		return removal{}, err
	}
	c.removing.Lock()
	defer c.removing.Unlock()
	if _, err := s.lookup(id); err != nil {
		return removal{}, err // another call was faster
	}
	deleteCore := c.core.Delete
	if force || c.standInIsGone() {
		if err := s.killForSure(ctx, c.core); err != nil {
			return removal{}, err
		}
		deleteCore = c.core.DeleteForSure
	}
	if c.core.Status() == virtcontainers.StatusStopped {
		if err := s.awaitFinished(ctx, c); err != nil {
			return removal{}, err
		}
	}
	if s.idle() && s.count() == 1 {
		// Nothing is left to be undone in a guest that goes anyway.
		if err := s.sandbox.Stop(context.WithoutCancel(ctx)); err != nil {
			return removal{}, err
		}
	}
	if err := deleteCore(ctx); err != nil {
		return removal{}, err
	}
	if err := s.forget(context.WithoutCancel(ctx), c); err != nil {
		return removal{}, err
	}
	return removal{last: s.count() == 0}, nil
}

// endUnasked ends a pod whose first container was not asked for yet, and tells
// whether it is that.
func (s *server) endUnasked(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok || c.id != "" || s.ending {
		return false
	}
	s.ending = true
	s.finish()
	return true
}

// endCreation ends the creation of a container that is under way, or for which
// it is reserved, and tells whether there was one.
func (s *server) endCreation(ctx context.Context, id string) (was bool, err error) {
	s.mu.Lock()
	c, ok := s.containers[id]
	if !ok || c.core != nil || c.id == "" {
		s.mu.Unlock()
		return false, nil
	}
	reserved := c.isReserved() && !c.leaving
	switch {
	case reserved:
		c.leaving = true
	case c.cancel != nil:
		c.cancel(errDeleted) // under the lock: publish and rest see it or came before
	}
	s.mu.Unlock()
	if reserved {
		return true, s.undo(ctx, c)
	}
	<-c.gone
	return true, nil
}

// errDeleted is why a creation failed that a delete command met.
var errDeleted = errors.New("the container was deleted meanwhile")

// standInIsGone tells that callers, who go by their pid, take the container for
// stopped: it is about to be.
func (c *container) standInIsGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !store.Alive(c.state.StandInPID, c.state.StandInStartTime)
}

// awaitFinished waits for the stopped container's output to be taken and for its
// other processes to end, but not for ever: whoever reads may have stopped to,
// and the guest may not tell of an end.
func (s *server) awaitFinished(ctx context.Context, c *container) error {
	drain := time.AfterFunc(drainTimeout, func() { s.abandonStandIns(c) })
	defer drain.Stop()
	last := time.NewTimer(drainTimeout + killTimeout)
	defer last.Stop()
	select {
	case <-c.finished:
		return nil
	case <-last.C:
	}
	s.log.Error("a container's processes survive it: its machine is stopped", "container", c.id)
	if err := s.sandbox.Stop(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	<-c.finished
	return nil
}

func (s *server) abandonStandIns(c *container) {
	s.mu.Lock()
	c.abandoned = true
	standIns := append(slices.Collect(maps.Values(c.execStandIns)), c.standIn)
	s.mu.Unlock()
	for _, standIn := range standIns {
		standIn.abandon()
	}
}

// killTimeout is how long a killed container may take to end. Then its guest
// does not work any more, or lies.
const killTimeout = 20 * time.Second

// killForSure ends a container, if need be with its machine.
func (s *server) killForSure(ctx context.Context, c *virtcontainers.Container) error {
	bounded, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	err := kill(bounded, c)
	if err == nil || ctx.Err() != nil {
		return err
	}
	s.log.Error("container survives being killed: its machine is stopped", "container", c.ID(), "error", err)
	if err := s.sandbox.Stop(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return kill(ctx, c)
}

// kill ends a container and waits for its end.
func kill(ctx context.Context, c *virtcontainers.Container) error {
	err := c.Signal(ctx, syscall.SIGKILL, true)
	if err != nil && !errors.Is(err, virtcontainers.ErrNotRunning) {
		return err
	}
	select {
	case <-c.Init().Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the container's end: %w", context.Cause(ctx))
	}
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.containers)
}

// endIfUnused ends the pod when it has no container and no command that could
// make one.
func (s *server) endIfUnused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.id != "" { // reserved for a container that was never asked for
			return
		}
	}
	if len(s.containers) == 0 || len(s.channels) == 0 {
		s.ending = true
		s.finish()
	}
}
