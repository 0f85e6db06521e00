package virtcontainers

import (
	"context"
	"net"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
)

// Machine is a VM with all that belongs to it on the host (its vsock, the daemon
// that serves its share), as a Sandbox uses it; package machine builds it. Its
// methods are those of hypervisor.VM, but that Wait also returns when a helper of
// the machine has ended, and Stop releases the helpers too.
type Machine interface {
	Start(ctx context.Context) error
	Wait(ctx context.Context) error
	Stop(ctx context.Context) error
	Info() hypervisor.Info
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	Listen(port uint32) (net.Listener, error)
	Attach(ctx context.Context, device hypervisor.Device) error
	Detach(ctx context.Context, id string) error
	Resize(ctx context.Context, size hypervisor.Size) (hypervisor.Size, error)

	// Ready takes the connection that the guest makes to protocol.ReadyPort once
	// it is ready. Whoever reads it closes it.
	Ready() net.Listener
	// ConsoleTail returns the last lines of the guest's console, made safe to
	// print.
	ConsoleTail() string
	// AwaitConsole returns once a line that contains text was written to the
	// console, also before the call.
	AwaitConsole(ctx context.Context, text string) error
	// Helpers are the processes of the machine beside its VMM, by their names.
	Helpers() map[string]int
	// Share tells how the guest mounts the pod's shared directory.
	Share() *protocol.Share
}
