package pod

import (
	"context"

	"kata-runtime/virtcontainers"
)

// Attachment takes a process's streams, and is told of its end. Each front end
// has its own.
type Attachment interface {
	// Begin gives it the process, whose streams it takes over. kill ends the
	// process for sure, with a container's first one the container: for whoever
	// stands for the process and is gone. Close follows, also after an error.
	Begin(ctx context.Context, process *virtcontainers.Process, kill func(context.Context) error) error
	// Close tells how the process ended, and returns once its output is taken, given
	// up, or where nobody needs to wait for its being taken. Idempotent.
	Close(exit virtcontainers.Exit)
	// Abandon gives up output that nobody takes, so that Close returns. It may come
	// at any time after Begin.
	Abandon()
}

// Keeper is what a front end keeps of a container beside the pod, and is told
// what becomes of it.
type Keeper interface {
	// Claim takes what the container needs outside of the pod, once its id is
	// reserved there. ctx ends when the container is removed meanwhile.
	Claim(ctx context.Context) error
	// Record notes a change of status. exit is set with StatusStopped, after which
	// others may still come: they are late.
	Record(status virtcontainers.Status, exit *virtcontainers.Exit) error
	// Lost tells that whoever stands for the container outside of the pod is gone:
	// then it is removed as if it had stopped.
	Lost() bool
	// Release lets go of the container, also when Claim has failed. last: it was the
	// pod's last one, which ends.
	Release(ctx context.Context, last bool) error
}
