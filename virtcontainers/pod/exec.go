package pod

import (
	"context"
	"errors"
	"syscall"

	"kata-runtime/virtcontainers"
)

// ExecRequest is what Exec needs.
type ExecRequest struct {
	virtcontainers.ExecOptions
	Attachment Attachment
	// Prepare, if not nil, runs first, while the container is held.
	Prepare func(ctx context.Context) error
	// AwaitThaw: wait as long as the container is paused, instead of failing.
	AwaitThaw bool
}

// Exec is a process that was added to a container.
type Exec struct {
	*virtcontainers.Process

	attachment Attachment
	finished   chan struct{}
}

// Finished is closed when the process has ended and its output was taken, or
// given up.
func (e *Exec) Finished() <-chan struct{} { return e.finished }

// Exec adds a process to the container and starts it. It wraps ErrNotRunning
// once the container has ended. There is no process after an error.
func (c *Container) Exec(ctx context.Context, request ExecRequest) (*Exec, error) {
	if err := c.hold(); err != nil {
		return nil, err
	}
	defer c.running.Done()
	if request.Prepare != nil {
		if err := request.Prepare(ctx); err != nil {
			return nil, err
		}
	}
	if request.AwaitThaw {
		if err := c.core.AwaitThaw(ctx); err != nil {
			return nil, err
		}
	}
	process, err := c.core.Exec(ctx, request.ExecOptions)
	if err != nil {
		return nil, err
	}
	e := &Exec{Process: process, attachment: request.Attachment, finished: make(chan struct{})}
	kill := func(ctx context.Context) error { return process.Signal(ctx, syscall.SIGKILL) }
	err = e.attachment.Begin(ctx, process, kill)
	c.running.Add(1)
	c.addExec(e)
	c.pod.background.Go(func() {
		defer c.running.Done()
		c.seeThrough(e)
		c.removeExec(e)
		close(e.finished)
	})
	if err != nil {
		return nil, errors.Join(err, e.Kill(context.WithoutCancel(ctx)))
	}
	return e, nil
}

// Kill ends a process that cannot be kept. One that has ended is no error.
func (e *Exec) Kill(ctx context.Context) error {
	err := e.Signal(ctx, syscall.SIGKILL)
	if errors.Is(err, virtcontainers.ErrNotRunning) {
		return nil
	}
	return err
}

// hold keeps a container's end from being complete until running.Done.
func (c *Container) hold() error {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if c.state != live {
		return virtcontainers.ErrNotRunning
	}
	c.running.Add(1)
	return nil
}

// seeThrough waits for a process's end, and for its output to be taken. A guest
// that tells of the container's end has to tell of its processes' too.
func (c *Container) seeThrough(e *Exec) {
	select {
	case <-e.Done():
		e.attachment.Close(e.Exit())
	case <-c.overdue:
		c.pod.log.Error("a process survives its container: its output is given up", "container", c.id)
		e.attachment.Abandon()
		e.attachment.Close(virtcontainers.Exit{Code: 128 + uint8(syscall.SIGKILL)})
	}
}

// addExec notes a process that runs; removeExec undoes it.
func (c *Container) addExec(e *Exec) {
	c.pod.mu.Lock()
	c.execs[e] = struct{}{}
	abandoned := c.abandoned
	c.pod.mu.Unlock()
	if abandoned {
		e.attachment.Abandon()
	}
}

func (c *Container) removeExec(e *Exec) {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	delete(c.execs, e)
}
