package virtcontainers

import (
	"context"
	"errors"
	"fmt"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/sizing"
)

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
