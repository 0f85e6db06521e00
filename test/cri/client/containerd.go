package client

import (
	"context"
	"errors"
	"fmt"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/containers/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Containerd is the API of containerd's own, below CRI: a task that was created
// and not started, for one, is nothing that CRI knows. It shares its client's
// connection, and CRI's namespace.
type Containerd struct {
	Containers containers.ContainersClient
	Tasks      tasks.TasksClient

	events eventsapi.EventsClient
}

// Containerd returns containerd's own API.
func (c *Client) Containerd() *Containerd {
	return &Containerd{
		Containers: containers.NewContainersClient(c.conn),
		Tasks:      tasks.NewTasksClient(c.conn),
		events:     eventsapi.NewEventsClient(c.conn),
	}
}

// InCRI returns a context for calls in the namespace of CRI's containers.
func InCRI(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", "k8s.io")
}

// Exits takes the ends of tasks' first processes, from now on: the exit status of
// each by its container's id. It ends with ctx, or with containerd.
func (c *Containerd) Exits(ctx context.Context, take func(container string, status uint32)) error {
	stream, err := c.events.Subscribe(InCRI(ctx), &eventsapi.SubscribeRequest{Filters: []string{`topic=="/tasks/exit"`}})
	if err != nil {
		return fmt.Errorf("subscribe to containerd's events: %w", err)
	}
	for {
		envelope, err := stream.Recv()
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		exit := &eventtypes.TaskExit{}
		if err := proto.Unmarshal(envelope.GetEvent().GetValue(), exit); err != nil {
			return fmt.Errorf("decode the end of a task: %w", err)
		}
		if exit.GetID() == exit.GetContainerID() {
			take(exit.GetContainerID(), exit.GetExitStatus())
		}
	}
}
