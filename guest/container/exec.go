package container

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// maxExited bounds how many exited processes a container remembers: health
// checks add one every few seconds for months. The oldest are forgotten.
const maxExited = 100

// Exec adds a process to a container and starts it.
func (r *Runtime) Exec(ctx context.Context, req *protocol.ExecProcessRequest) error {
	id, name := req.GetContainerId(), req.GetProcessId()
	spec := &specs.Process{}
	if err := json.Unmarshal(req.GetProcessJson(), spec); err != nil {
		return fmt.Errorf("exec in container %q: %w: process: %w", id, ErrInvalid, err)
	}
	if name == "" {
		return fmt.Errorf("exec in container %q: %w: the process has no name", id, ErrInvalid)
	}
	c, err := r.get(ctx, id)
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	guestProcess(spec)
	r.chooseProcessLabels(id, spec)
	// A frozen process would never get to its program, nor this call to its end.
	if status, err := c.lc.Status(); err != nil || status == libcontainer.Paused {
		return fmt.Errorf("exec in container %q: %w", id, cmp.Or(err, errPaused))
	}
	placeholder := &process{name: name, done: make(chan struct{})}
	if err := c.reserveExec(placeholder); err != nil {
		return err
	}
	p, err := r.launch(c, spec, launchOptions{
		name: name, cgroup: req.GetCgroup(),
		stdin: req.GetStdin(), stdout: req.GetStdout(), stderr: req.GetStderr(),
	})
	if c.settleExec(placeholder, p) {
		// It may have come too late to be killed with the others.
		_ = p.lp.Signal(unix.SIGKILL) // fails only when it has exited
	}
	if err != nil {
		return fmt.Errorf("exec in container %q: %w", id, err)
	}
	return nil
}

// reserveExec takes the name of a process that is about to start.
func (c *container) reserveExec(placeholder *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.execs[placeholder.name]; taken {
		return fmt.Errorf("process %q in container %q %w", placeholder.name, c.id, ErrExists)
	}
	if c.leaving || c.init.exited() {
		return fmt.Errorf("exec in container %q: %w", c.id, ErrNotRunning)
	}
	c.execs[placeholder.name] = placeholder
	return nil
}

// settleExec replaces the placeholder by the process, or frees the name when p
// is nil. It tells whether the container has ended meanwhile, which p must not
// survive.
func (c *container) settleExec(placeholder, p *process) (ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, placeholder.name)
	if p != nil {
		c.execs[p.name] = p
	}
	close(placeholder.done)
	return c.ended && p != nil
}

// retire notes that a process has exited, and forgets the oldest ones.
func (c *container) retire(p *process) {
	if p.name == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exited = append(c.exited, p.name)
	if len(c.exited) > maxExited {
		delete(c.execs, c.exited[0])
		c.exited = c.exited[1:]
	}
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// process finds a process of a container; an empty name is the first one, which
// may sleep.
func (r *Runtime) process(id, name string) (*container, *process, error) {
	c, err := r.find(id)
	if err != nil {
		return nil, nil, err
	}
	if name == "" {
		return c, c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.execs[name]
	if !ok || p.lp == nil {
		return nil, nil, fmt.Errorf("process %q in container %q %w", name, id, ErrNotFound)
	}
	return c, p, nil
}

// Wait returns how a process ended, as soon as it has and what it wrote was
// taken from its pipes. It ends early with ctx.
func (r *Runtime) Wait(ctx context.Context, id, name string) (Exit, error) {
	_, p, err := r.process(id, name)
	if err != nil {
		return Exit{}, err
	}
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for process %q of container %q: %w", name, id, context.Cause(ctx))
	}
}

// Resize sets the size of a process's terminal.
func (r *Runtime) Resize(id, name string, rows, columns uint32) error {
	const limit = 1<<16 - 1
	c, p, err := r.process(id, name)
	if err != nil {
		return err
	}
	if name == "" && c.sleep != nil {
		return fmt.Errorf("resize terminal: %w", errNoTerminal)
	}
	if rows > limit || columns > limit {
		return fmt.Errorf("resize terminal: %w: %d rows, %d columns", ErrInvalid, rows, columns)
	}
	if p.exited() {
		return fmt.Errorf("resize terminal: %w", ErrNotRunning)
	}
	return p.stdio.resize(uint16(rows), uint16(columns))
}
