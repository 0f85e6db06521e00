package container

import (
	"cmp"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/stream"
)

// Exit is how a process ended.
type Exit struct {
	Code      int // 0-255; 128+Signal when a signal ended it
	Signal    int // 0 unless a signal ended it
	OOMKilled bool
	// OOMEvents is how many events of the container NextOOM returns until then.
	OOMEvents uint64
	At        time.Time
}

// process is one process of a container.
type process struct {
	name  string // empty: the container's first
	lp    *libcontainer.Process
	stdio *stdio
	done  chan struct{} // closed when exit is set
	exit  Exit          // read after done is closed
}

type launchOptions struct {
	name                  string
	init                  bool
	cgroup                string
	stdin, stdout, stderr bool

	first   *process     // the one to become; nil: a new one
	claimed *connections // its streams; nil: they are to be claimed
}

// connections are the process's streams, which the caller then owns.
func (o *launchOptions) connections(streams Streams, container string) (connections, error) {
	if o.claimed != nil {
		return *o.claimed, nil
	}
	return claim(streams, container, *o)
}

// launch starts a process in c, with its streams, and the goroutine that waits
// for its end. For the container's first process it returns when that waits for
// Start.
func (r *Runtime) launch(c *container, spec *specs.Process, opts launchOptions) (*process, error) {
	lp, err := newProcess(spec)
	if err != nil {
		return nil, err
	}
	lp.Init = opts.init
	if opts.cgroup != "" {
		lp.SubCgroupPaths = map[string]string{"": opts.cgroup}
	}
	streams, err := opts.connections(r.streams, c.id)
	if err != nil {
		return nil, err
	}
	p := cmp.Or(opts.first, &process{name: opts.name, done: make(chan struct{})})
	p.lp = lp
	config := c.lc.Config()
	if len(lp.Rlimits) == 0 { // then it has the container's
		lp.LogLevel = helperLevel(config.Rlimits)
	}
	// An owner that the user namespace cannot name is reported by libcontainer.
	owner, err := config.HostUID(lp.UID)
	if err != nil {
		owner = 0
	}
	if p.stdio, err = prepareStdio(lp, streams, spec.Terminal, owner); err != nil {
		return nil, err
	}
	killed := c.oomKills()
	if described := quicken(c.id, &config, lp); described != nil {
		defer described.Close()
	}
	if err := c.lc.Start(lp); err != nil {
		p.stdio.abort()
		return nil, err
	}
	if err := p.stdio.connect(); err != nil {
		_ = lp.Signal(syscall.SIGKILL) // Fails only when it has exited.
		_, _ = lp.Wait()
		p.stdio.abort()
		return nil, err
	}
	if opts.init {
		r.oom.add(c.id, c.cgroupDir())
	}
	r.waiters.Go(func() { r.wait(c, p, opts, killed) })
	return p, nil
}

// wait is the goroutine of a process: it ends when the process has exited and
// its streams were settled.
func (r *Runtime) wait(c *container, p *process, opts launchOptions, killedBefore uint64) {
	state, err := p.lp.Wait()
	exit := Exit{Code: 255, At: time.Now()}
	if state == nil {
		r.log.Error("exit code lost", "container", c.id, "process", p.name, "error", err)
	} else if status, ok := state.Sys().(syscall.WaitStatus); ok {
		exit.Code = status.ExitStatus()
		if status.Signaled() {
			exit.Signal = int(status.Signal())
			exit.Code = 128 + exit.Signal
		}
	}
	if opts.init {
		// In a PID namespace that is not the container's alone, the kernel lets
		// the others live on.
		if err := c.end(); err != nil {
			r.log.Error("a container's processes may survive its first one", "container", c.id, "error", err)
		}
	}
	exit.OOMKilled = c.oomKills() > killedBefore
	exit.OOMEvents = r.oom.collect(c.id)
	for _, pipe := range p.stdio.finish() {
		r.waiters.Go(func() { stream.Discard(pipe) }) // until the last of the container's processes is gone
	}
	p.exit = exit
	close(p.done)
	c.retire(p)
}

// end kills what is left of a container whose first process has exited.
func (c *container) end() error {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	return c.killAll()
}
