package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"kata-runtime/virtcontainers"
)

const (
	// drainTimeout bounds how long the removal of a stopped container waits for
	// its output to be read.
	drainTimeout = 10 * time.Second
	// killTimeout is how long a killed container may take to end. Then its guest
	// does not work any more, or lies.
	killTimeout = 20 * time.Second
	// survival is that for a container that nobody is about to remove. What it waits
	// for may be the host's (a file server that hangs), and its end would be that of
	// the others; callers of CRI wait for two minutes.
	survival = time.Minute
)

// Removal tells what Remove has done.
type Removal struct {
	// Last: the pod has no other container.
	Last bool
	// Creating: the container's creation was under way, and fails.
	Creating bool
}

// Remove deletes a stopped container; with force also one that still runs, or
// that is being created. Nothing is left of it when it returns nil. It wraps
// virtcontainers.ErrNotFound or, without force, ErrState.
func (p *Pod) Remove(ctx context.Context, id string, force bool) (Removal, error) {
	if force {
		if was, err := p.endCreation(ctx, id); was || err != nil {
			return Removal{Last: err == nil && p.count() == 0, Creating: true}, err
		}
	}
	c, err := p.Container(id)
	if err != nil {
		return Removal{}, err
	}
	c.removing.Lock()
	defer c.removing.Unlock()
	if current, err := p.Container(id); err != nil || current != c {
		return Removal{}, fmt.Errorf("container %q: %w", id, virtcontainers.ErrNotFound) // another call was faster
	}
	deleteCore := c.core.Delete
	if force || c.keeper.Lost() {
		if err := p.killForSure(ctx, c.core); err != nil {
			return Removal{}, err
		}
		deleteCore = c.core.DeleteForSure
	}
	if c.core.Status() == virtcontainers.StatusStopped {
		if err := c.awaitFinished(ctx); err != nil {
			return Removal{}, err
		}
	}
	if p.idle() && p.count() == 1 {
		// Nothing is left to be undone in a guest that goes anyway.
		if err := p.sandbox.Stop(context.WithoutCancel(ctx)); err != nil {
			return Removal{}, err
		}
	}
	if err := deleteCore(ctx); err != nil {
		return Removal{}, err
	}
	p.mu.Lock()
	last := c.leave()
	p.mu.Unlock()
	if err := c.depart(context.WithoutCancel(ctx), last); err != nil {
		return Removal{}, err
	}
	return Removal{Last: p.count() == 0}, nil
}

// endCreation ends the creation of a container that is under way, or for which
// it is reserved, and tells whether there was one.
func (p *Pod) endCreation(ctx context.Context, id string) (was bool, err error) {
	p.mu.Lock()
	c, ok := p.containers[id]
	if !ok || c.state.reachable() {
		p.mu.Unlock()
		return false, nil
	}
	if c.state == reserved {
		last := c.leave()
		p.mu.Unlock()
		return true, c.depart(context.WithoutCancel(ctx), last)
	}
	if c.cancel != nil {
		c.cancel(errRemoved) // under the lock: commit sees it or came before
	}
	p.mu.Unlock()
	<-c.gone
	return true, nil
}

// awaitFinished waits for the stopped container's output to be taken and for its
// other processes to end, but not for ever: whoever reads may have stopped to,
// and the guest may not tell of an end.
func (c *Container) awaitFinished(ctx context.Context) error {
	drain := time.AfterFunc(drainTimeout, c.abandon)
	defer drain.Stop()
	last := time.NewTimer(drainTimeout + killTimeout)
	defer last.Stop()
	select {
	case <-c.finished:
		return nil
	case <-last.C:
	}
	c.pod.log.Error("a container's processes survive it: its machine is stopped", "container", c.id)
	if err := c.pod.sandbox.Stop(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	<-c.finished
	return nil
}

// abandon gives up the output of the container's processes.
func (c *Container) abandon() {
	c.pod.mu.Lock()
	c.abandoned = true
	attachments := []Attachment{c.attachment}
	for e := range c.execs {
		attachments = append(attachments, e.attachment)
	}
	c.pod.mu.Unlock()
	for _, attachment := range attachments {
		attachment.Abandon()
	}
}

// killForSure ends a container, if need be with its machine.
func (p *Pod) killForSure(ctx context.Context, core *virtcontainers.Container) error {
	bounded, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	err := kill(bounded, core)
	if err == nil || ctx.Err() != nil {
		return err
	}
	p.log.Error("container survives being killed: its machine is stopped", "container", core.ID(), "error", err)
	if err := p.sandbox.Stop(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return kill(ctx, core)
}

// doom sees to it that a container to which SIGKILL is sent ends, if need be with its
// machine: callers that cannot force its removal would wait for ever.
func (c *Container) doom() {
	if err := c.hold(); err != nil {
		return // it has ended
	}
	defer c.running.Done()
	c.dooming.Do(func() {
		c.pod.background.Go(func() {
			timer := time.NewTimer(cmp.Or(c.pod.options.Survival, survival))
			defer timer.Stop()
			select {
			case <-c.core.Init().Done():
				return
			case <-timer.C:
			}
			c.pod.log.Error("container survives being killed: its machine is stopped", "container", c.id)
			if err := c.pod.sandbox.Stop(context.Background()); err != nil {
				c.pod.log.Error("stop the machine of a container that survives", "container", c.id, "error", err)
			}
		})
	})
}

// kill ends a container and waits for its end.
func kill(ctx context.Context, core *virtcontainers.Container) error {
	err := core.Signal(ctx, syscall.SIGKILL, true)
	if err != nil && !errors.Is(err, virtcontainers.ErrNotRunning) {
		return err
	}
	select {
	case <-core.Init().Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the container's end: %w", context.Cause(ctx))
	}
}
