package vsock

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"kata-runtime/hypervisor"
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
	// guest dials the listener's GuestPort, which is port itself with "user",
	// another with "vhost". A port that has a listener is an error that wraps
	// syscall.EADDRINUSE.
	Listen(port uint32) (hypervisor.Listener, error)
	// Device returns what the VMM's driver plugs in. Its file belongs to the
	// Host, which closes it at the latest in Close; the driver passes on a
	// duplicate.
	Device() *hypervisor.Vsock
	// Kind is "vhost" or "user".
	Kind() string
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

// Open opens the host's end of the vsock of a guest that has not been started
// yet. The empty mode is ModeAuto. ctx bounds the call alone.
func Open(ctx context.Context, mode Mode, log *slog.Logger) (Host, error) {
	switch mode {
	case ModeAuto, "":
		h, err := openVhost(ctx)
		if err == nil {
			return h, nil
		}
		log.LogAttrs(ctx, slog.LevelDebug, "vhost-vsock is not usable, using the vhost-user device", slog.Any("error", err))
		return openUser(log)
	case ModeVhost:
		return openVhost(ctx)
	case ModeUser:
		return openUser(log)
	default:
		return nil, fmt.Errorf("vsock mode %q is none of %q, %q and %q", mode, ModeAuto, ModeVhost, ModeUser)
	}
}
