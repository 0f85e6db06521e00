package passt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
)

// ErrNotInstalled says that there is no passt.
var ErrNotInstalled = errors.New("passt is not installed (Debian's package passt)")

// Options say how the VM is on the host's network.
type Options struct {
	// Path is the program. Empty: it is searched in PATH.
	Path string
	// Addresses are the guest's, at most one of each family; Gateways are what
	// it takes for its gateways.
	Addresses, Gateways []net.IP
	// TCPPorts and UDPPorts are the host's ports that lead to the guest, as
	// passt's -t and -u take them: "none", "all", or a list such as
	// "80,8000-8010".
	TCPPorts, UDPPorts string
	// Jail confines passt, before it confines itself; nil: it is left to that. A
	// program that jails it calls jail.Become, see there.
	Jail *jail.Options
	// Starter forks passt. It must outlive it.
	Starter *child.Starter
	// Log gets debug messages.
	Log *slog.Logger
}

// Daemon is a passt that was started. Its Wait returns nil when the VMM has hung
// up. Its methods are safe for concurrent use.
type Daemon struct {
	*child.Helper
	socket *os.File
}

// socketFD is the socket's descriptor in passt.
const socketFD = 3

// Start starts passt in the network namespace of the caller. Whether it came up
// shows in Wait. ctx bounds the call, not passt's life. It wraps
// ErrNotInstalled.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	path := o.Path
	if path == "" {
		var err error
		if path, err = exec.LookPath("passt"); err != nil {
			return nil, fmt.Errorf("start passt: %w", ErrNotInstalled)
		}
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start passt: make its socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "passt"), os.NewFile(uintptr(fds[1]), "passt")
	defer theirs.Close()
	args := arguments(o)
	// passt outlives the call, so ctx must not end it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, args...)
	cmd.ExtraFiles = []*os.File{theirs}
	o.Log.DebugContext(ctx, "start passt", "path", path, "arguments", args)
	if err := confine(ctx, cmd, &o); err != nil {
		return nil, errors.Join(fmt.Errorf("start passt: %w", err), ours.Close())
	}
	helper, err := child.StartHelper(o.Starter, "passt", cmd, 0)
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return &Daemon{Helper: helper, socket: ours}, nil
}

func arguments(o Options) []string {
	args := []string{
		"--foreground", "--stderr", "--quiet", "--fd", strconv.Itoa(socketFD),
		// The agent sets addresses and routes: nothing is to be negotiated.
		"--no-dhcp", "--no-dhcpv6", "--no-ra",
		// The gateway is itself, as for the host, and not the host's loopback.
		"--no-map-gw",
		"--tcp-ports", o.TCPPorts, "--udp-ports", o.UDPPorts,
	}
	has := map[bool]bool{}
	for _, address := range o.Addresses {
		args = append(args, "--address", address.String())
		has[address.To4() != nil] = true
	}
	for _, gateway := range o.Gateways {
		args = append(args, "--gateway", gateway.String())
	}
	if !has[false] {
		args = append(args, "--ipv4-only")
	} else if !has[true] {
		args = append(args, "--ipv6-only")
	}
	return args
}

// Socket returns the connected stream socket for the VMM. It belongs to the
// Daemon, which closes it in Stop; a VMM gets a duplicate.
func (d *Daemon) Socket() *os.File { return d.socket }

// Stop kills passt, waits for its end, and closes the socket. Idempotent.
func (d *Daemon) Stop() error {
	_ = d.socket.Close()
	return d.Helper.Stop()
}
