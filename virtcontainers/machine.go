package virtcontainers

import (
	"context"
	"net"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
)

// Machine is a virtual machine with all that belongs to it on the host (its
// vsock, the daemon that serves its share), as a Sandbox uses it. Its methods
// are those of hypervisor.VM, with these differences: Start prepares what it
// needs, Wait also returns when a helper of the machine has ended, and Stop
// releases the helpers too.
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
	// GuestPort is the number that the guest dials to reach the listener of a
	// port: vsock's transports may differ in it.
	GuestPort(port uint32) uint32

	// ConsoleTail returns the last lines of the guest's console, made safe to
	// print.
	ConsoleTail() string
	// AwaitConsole returns once a line that contains text was written to the
	// console, also before the call.
	AwaitConsole(ctx context.Context, text string) error
	// Share tells how the guest mounts the pod's shared directory.
	Share() *protocol.Share
}
