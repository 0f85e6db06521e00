package hypervisor

import (
	"context"
	"fmt"
	"net"
)

// VM is one virtual machine. Its methods are safe for concurrent use. After
// the VMM has ended, every method but Wait, Stop and Info returns an error that
// wraps ErrEnded.
type VM interface {
	// Start launches the VMM and lets the guest run. It returns when the VMM
	// answers, not when the guest has booted. An error of the VMM itself, such
	// as a kernel that it cannot load, may come from Start or from Wait; both
	// carry the VMM's last words in an *ExitError. Once only: a second call
	// returns ErrStarted. ctx bounds the call, not the VM's life.
	Start(ctx context.Context) error
	// Wait blocks until the VMM has ended, and returns nil for an end that the
	// guest (by powering off) or Stop asked for, an error that wraps ErrEnded
	// and ErrGuestReset for a guest that crashed, an *ExitError for a VMM that
	// ended otherwise, or ctx's error. Any number of callers may wait, before
	// and after the end.
	Wait(ctx context.Context) error
	// Stop ends the VMM at once and releases all that the VM holds: processes,
	// descriptors, sockets. The guest gets no notice. Idempotent; legal in
	// every state.
	Stop(ctx context.Context) error
	// Pause stops the vCPUs; Resume continues them. Both are idempotent.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Info describes the VM as it is now. It never blocks on the VMM.
	Info() Info
	// Dial connects to a vsock port of the guest. A port on which nobody
	// listens is an error that wraps syscall.ECONNREFUSED or ECONNRESET.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Listen takes connections that this guest, and no other, makes to a vsock
	// port of the host. The guest dials the port of the listener's address, a
	// VsockAddr (see DialedPort), which need not be the one that the caller names:
	// with vhost-vsock all VMs of the host share its ports. Legal before Start. The
	// end of the VM closes the listener: Accept's error wraps net.ErrClosed.
	Listen(port uint32) (net.Listener, error)
	// Attach plugs a device into the running VM. A device that the driver or
	// this VM cannot take is an error that wraps ErrUnsupported; a full bus
	// wraps ErrNoSlot.
	Attach(ctx context.Context, device Device) error
	// Detach unplugs the device with the given id and returns when the guest
	// has let go of it. An unknown id wraps ErrNoDevice.
	Detach(ctx context.Context, id string) error
	// Resize changes the number of vCPUs and the memory, and returns what the
	// VM has afterwards: drivers round up and need not shrink.
	Resize(ctx context.Context, size Size) (Size, error)
}

// VsockAddr is the address of a VM's listener. It implements net.Addr.
type VsockAddr struct{ CID, Port uint32 }

// Network implements net.Addr.
func (VsockAddr) Network() string { return "vsock" }

// String implements net.Addr.
func (a VsockAddr) String() string { return fmt.Sprintf("vsock(%d):%d", a.CID, a.Port) }

// DialedPort is the port that the guest dials to reach a VM's listener; 0 for a
// listener that is none.
func DialedPort(l net.Listener) uint32 {
	addr, _ := l.Addr().(VsockAddr)
	return addr.Port
}

// Size is what a VM has of vCPUs and memory. Zero means unchanged in Resize.
type Size struct {
	VCPUs     int
	MemoryMiB int
}

// State is where a VM is in its life.
type State int

// The states, in the order of a VM's life.
const (
	StateNew State = iota
	StateRunning
	StatePaused
	StateEnded
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case StateNew:
		return "new"
	case StateRunning:
		return "running"
	case StatePaused:
		return "paused"
	case StateEnded:
		return "ended"
	default:
		return "unknown"
	}
}

// Info describes a VM.
type Info struct {
	State State
	// PID is the VMM's process, 0 before Start.
	PID int
	// VCPUThreads are the host thread ids of the vCPUs, in vCPU order; empty
	// where the driver cannot tell.
	VCPUThreads []int
	Size        Size
	// Driver and Version name the VMM: "qemu", "7.2.22".
	Driver, Version string
	// Accelerator is "kvm" or "tcg".
	Accelerator string
	// OverheadMiB is the host's memory that this driver's VMM may take with this
	// accelerator beyond what any VMM does: that of an emulator for translated
	// code. Known before Start.
	OverheadMiB int
}
