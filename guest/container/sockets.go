package container

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
)

// relaySockets puts the agent's sockets in the place of the host's in a
// specification, and returns where the other bind mounts go, by their sources.
func (r *Runtime) relaySockets(ctx context.Context, id string, spec *specs.Spec, binds []*protocol.SocketBind) (map[string]string, error) {
	if len(binds) == 0 {
		return nil, nil
	}
	sources, err := r.sockets.Prepare(ctx, id, binds)
	if err != nil {
		return nil, err
	}
	destinations := map[string]string{}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if own, ok := sources[m.Source]; ok {
			m.Source = own
			continue
		}
		destinations[m.Source] = m.Destination
	}
	return destinations, nil
}

// showSockets shows sockets in the directories of a container that waits for
// Start. A container without them is better than none.
func (r *Runtime) showSockets(c *container, destinations map[string]string) {
	if len(destinations) == 0 {
		return
	}
	pid, err := c.init.lp.Pid()
	if err == nil {
		err = r.sockets.Enter(c.id, pid, destinations)
	}
	if err != nil {
		r.log.Warn("sockets of the host cannot be reached", "container", c.id, "error", err)
	}
}
