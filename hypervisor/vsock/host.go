package vsock

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
)

// Host is the host's end of one guest's vsock. It is safe for concurrent use.
type Host interface {
	// Dial connects to a port of the guest. Where nobody listens, the error
	// wraps syscall.ECONNREFUSED or syscall.ECONNRESET. A guest that is paused
	// does not answer: ctx bounds the wait. Before the guest has a vsock driver,
	// "user" waits for one, "vhost" may return an error that wraps
	// syscall.ENODEV or syscall.ECONNRESET; let the guest dial first.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Listen takes the connections that this guest, and no other, makes to a
	// port of the host. It is legal before the VM starts. port is logical: the
	// guest dials that of the listener's address, a hypervisor.VsockAddr, which is
	// port itself with "user", another with "vhost". A port that has a listener is an
	// error that wraps syscall.EADDRINUSE.
	Listen(port uint32) (net.Listener, error)
	// Device returns what the VMM's driver plugs in. Its file belongs to the
	// Host, which closes it at the latest in Close; the driver passes on a
	// duplicate.
	Device() *hypervisor.Vsock
	// Kind is "vhost" or "user".
	Kind() string
	// Helper is the process that serves the device, whose end is the guest's; nil
	// where the kernel does.
	Helper() *child.Helper
	// Close ends every connection and every listener, and waits for the Host's
	// goroutines. It is idempotent.
	Close() error
}

// Mode says which kind of Host to open.
type Mode string

// The modes.
const (
	// ModeAuto takes vhost-vsock where the host has it and this process may use
	// it, and our own device elsewhere.
	ModeAuto  Mode = "auto"
	ModeVhost Mode = "vhost"
	ModeUser  Mode = "user"
)

// DeviceID is the id of the device that Host.Device returns.
const DeviceID = "vsock0"

// Options say what to open.
type Options struct {
	// Mode is ModeAuto if empty.
	Mode Mode
	// Program serves a device of ours: see backend.Options.
	Program string
	// Jail confines the process that serves a device of ours; nil: it is not
	// confined.
	Jail *jail.Options
	// Starter forks that process, and must outlive the Host. Nil: it gets one for
	// itself.
	Starter *child.Starter
	Log     *slog.Logger
}

// Open opens the host's end of the vsock of a guest that has not been started
// yet. ctx bounds the call alone. For the device of our own, it starts a program
// that calls backend.Run with Role.
func Open(ctx context.Context, o Options) (Host, error) {
	switch o.Mode {
	case ModeAuto, "":
		h, err := openVhost(ctx)
		if err == nil {
			return h, nil
		}
		o.Log.LogAttrs(ctx, slog.LevelDebug, "vhost-vsock is not usable, using the vhost-user device", slog.Any("error", err))
		return openUser(ctx, o)
	case ModeVhost:
		return openVhost(ctx)
	case ModeUser:
		return openUser(ctx, o)
	default:
		return nil, fmt.Errorf("vsock mode %q is none of %q, %q and %q", o.Mode, ModeAuto, ModeVhost, ModeUser)
	}
}
