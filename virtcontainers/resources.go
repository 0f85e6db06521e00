package virtcontainers

import (
	"context"
	"errors"
	"fmt"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/sizing"
)

// Pause freezes the container's processes. It wraps ErrState unless the
// container runs.
func (c *Container) Pause(ctx context.Context) error {
	return c.switchStatus(ctx, StatusRunning, StatusPaused, "pause", c.sandbox.pause)
}

// Resume lets a paused container's processes go on. It wraps ErrState unless
// the container is paused.
func (c *Container) Resume(ctx context.Context) error {
	return c.switchStatus(ctx, StatusPaused, StatusRunning, "resume", c.sandbox.resume)
}

func (s *Sandbox) pause(ctx context.Context, request *protocol.ContainerRequest) error {
	_, err := s.agent.PauseContainer(ctx, request)
	return err
}

func (s *Sandbox) resume(ctx context.Context, request *protocol.ContainerRequest) error {
	_, err := s.agent.ResumeContainer(ctx, request)
	return err
}

// switchStatus does not hold mu while it waits for the agent: everyone asks for
// the status, also those who must not wait for a guest.
func (c *Container) switchStatus(ctx context.Context, from, to Status, verb string,
	call func(context.Context, *protocol.ContainerRequest) error,
) error {
	c.switching.Lock()
	defer c.switching.Unlock()
	if status := c.Status(); status != from {
		return fmt.Errorf("%w: cannot %s a container that is %s", ErrState, verb, status)
	}
	ctx, cancel := c.sandbox.call(ctx)
	defer cancel()
	if err := call(ctx, &protocol.ContainerRequest{ContainerId: c.id}); err != nil {
		return fmt.Errorf("%s the container: %w", verb, agentErr(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == from { // it may have ended already
		c.become(to)
	}
	return nil
}

// AwaitThaw waits as long as the container is paused.
func (c *Container) AwaitThaw(ctx context.Context) error {
	for {
		c.mu.Lock()
		paused, thawed := c.status == StatusPaused, c.thawed
		c.mu.Unlock()
		if !paused {
			return nil
		}
		select {
		case <-thawed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the paused container: %w", context.Cause(ctx))
		}
	}
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

// Update changes the container's limits to resources, an OCI LinuxResources as
// JSON; what is absent stays.
func (c *Container) Update(ctx context.Context, resources []byte) error {
	if err := c.alive(); err != nil {
		return err
	}
	ctx, cancel := c.sandbox.call(ctx)
	defer cancel()
	c.updating.Lock()
	defer c.updating.Unlock()
	previous := c.sandbox.resourcesOf(c.id)
	merged, err := sizing.Merge(previous, resources)
	if err == nil {
		err = c.sandbox.growFor(ctx, c.id, merged)
	}
	if err != nil {
		return fmt.Errorf("update the container's resources: %w", err)
	}
	_, err = c.sandbox.agent.UpdateContainer(ctx, &protocol.UpdateContainerRequest{
		ContainerId: c.id, ResourcesJson: resources,
	})
	if err != nil {
		// What it has already is enough: the machine need not grow.
		return errors.Join(fmt.Errorf("update the container's resources: %w", agentErr(err)),
			c.sandbox.growFor(ctx, c.id, previous))
	}
	return nil
}

// Stats returns the container's statistics as JSON, in the form of the data of
// runc's events. They come from the guest.
func (c *Container) Stats(ctx context.Context) ([]byte, error) {
	if err := c.alive(); err != nil {
		return nil, err
	}
	ctx, cancel := c.sandbox.call(ctx)
	defer cancel()
	response, err := c.sandbox.agent.StatsContainer(ctx, &protocol.ContainerRequest{ContainerId: c.id})
	if err != nil {
		return nil, fmt.Errorf("read the container's statistics: %w", agentErr(err))
	}
	return response.GetStatsJson(), nil
}

// Processes lists the container's processes as the guest knows them.
func (c *Container) Processes(ctx context.Context) ([]*protocol.ProcessInfo, error) {
	if err := c.alive(); err != nil {
		return nil, err
	}
	ctx, cancel := c.sandbox.call(ctx)
	defer cancel()
	response, err := c.sandbox.agent.ListProcesses(ctx, &protocol.ContainerRequest{ContainerId: c.id})
	if err != nil {
		return nil, fmt.Errorf("list the container's processes: %w", agentErr(err))
	}
	return response.GetProcesses(), nil
}
