package supervisor

import (
	"context"
	"errors"
	"io"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/supervisor/api"
)

// WatchContainer implements api.SupervisorService.
func (s *server) WatchContainer(ctx context.Context, request *api.ContainerRequest, stream api.Supervisor_WatchContainerServer) error {
	c, err := s.pod.Container(request.GetContainerId())
	if err != nil {
		return asStatus(err)
	}
	if c.Status() == virtcontainers.StatusStopped {
		return asStatus(virtcontainers.ErrNotRunning)
	}
	events, stop := c.WatchOOM()
	defer stop()
	if err := stream.Send(&api.ContainerEvent{}); err != nil {
		return err
	}
	for {
		select {
		case _, more := <-events:
			if !more {
				return nil
			}
			if err := stream.Send(&api.ContainerEvent{Oom: true}); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Watch calls event for each time that a process of the container was killed
// for lack of memory, until the container's end or an error of event. It calls
// ready first, when nothing can be missed any more.
func (c *Client) Watch(ctx context.Context, id string, ready func(), event func() error) error {
	stream, err := c.service.WatchContainer(ctx, &api.ContainerRequest{ContainerId: id})
	if err != nil {
		return asError(err)
	}
	watching := false
	for {
		message, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return asError(err)
		case !watching:
			watching = true
			ready()
			continue
		case !message.GetOom():
			continue // news of a later version
		}
		if err := event(); err != nil {
			return err
		}
	}
}
