package virtcontainers

import (
	"context"
	"fmt"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/sockets"
)

// serveSockets takes the guest's connections to the host's unix sockets, and
// returns the port that they are made to; 0: none.
func (s *Sandbox) serveSockets() (port uint32, err error) {
	if s.sockets == nil {
		return 0, nil
	}
	listener, err := s.options.Machine.Listen(protocol.SocketPort)
	if err != nil {
		return 0, fmt.Errorf("relay unix sockets: %w", err)
	}
	s.background.Go(func() {
		// The machine's end ends its listeners.
		if err := s.sockets.Serve(listener); err != nil && s.life.Err() == nil {
			s.log.Error("unix sockets of the host are relayed no more", "error", err)
		}
	})
	return hypervisor.DialedPort(listener), nil
}

// findSockets looks for sockets in the mounts of a container.
func (s *Sandbox) findSockets(options ContainerOptions) (*sockets.Container, error) {
	if s.sockets == nil {
		return nil, nil
	}
	return s.sockets.Add(options.ID, options.ShareName, options.Mounts)
}

// followSockets keeps the agent informed of the sockets that a created
// container can reach.
func (s *Sandbox) followSockets(c *Container) {
	if c.sockets == nil {
		return
	}
	s.background.Go(func() {
		c.sockets.Follow(s.life, func(ctx context.Context, update *protocol.UpdateSocketsRequest) error {
			ctx, cancel := s.call(ctx)
			defer cancel()
			if _, err := s.agent.UpdateSockets(ctx, update); err != nil {
				return fmt.Errorf("update the sockets: %w", agentErr(err))
			}
			return nil
		})
	})
}
