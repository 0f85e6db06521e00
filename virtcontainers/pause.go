package virtcontainers

import (
	"context"
	"fmt"

	"kata-runtime/guest/protocol"
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
