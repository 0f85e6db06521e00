package passt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/tail"
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
	// Starter forks passt. It must outlive it.
	Starter *child.Starter
	// Log gets debug messages.
	Log *slog.Logger
}

// Daemon is a passt that was started. Its methods are safe for concurrent use.
type Daemon struct {
	cmd    *exec.Cmd
	socket *os.File
	stderr *tail.Buffer
	// ended is closed when the process has ended; outcome is set before.
	ended   chan struct{}
	outcome error

	mu sync.Mutex
	// stopped and reaped are guarded by mu. reaped says that the process id
	// may be another's.
	stopped, reaped bool
}

const (
	lastLines   = 5
	stderrGrace = time.Second
	socketFD    = 3 // in passt
)

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
	d := &Daemon{socket: ours, stderr: &tail.Buffer{}, ended: make(chan struct{})}
	args := arguments(o)
	// passt outlives the call, so ctx must not end it.
	d.cmd = exec.CommandContext(context.WithoutCancel(ctx), path, args...)
	d.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	d.cmd.Dir = "/"
	d.cmd.ExtraFiles = []*os.File{theirs}
	d.cmd.Stderr = d.stderr
	d.cmd.WaitDelay = stderrGrace
	o.Log.DebugContext(ctx, "start passt", "path", path, "arguments", args)
	if err := o.Starter.Start(d.cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start passt: %w", err), ours.Close())
	}
	go d.monitor()
	return d, nil
}

func arguments(o Options) []string {
	args := []string{
		"--foreground", "--stderr", "--quiet", "--fd", fmt.Sprint(socketFD),
		// The agent sets addresses and routes: nothing is to be negotiated.
		"--no-dhcp", "--no-dhcpv6", "--no-ra",
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

// monitor waits for passt's end.
func (d *Daemon) monitor() {
	for errors.Is(unix.Waitid(unix.P_PID, d.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	d.mu.Lock()
	d.reaped = true
	d.mu.Unlock()
	err := d.cmd.Wait()
	d.mu.Lock()
	if !d.stopped && (err != nil || !d.cmd.ProcessState.Success()) {
		d.outcome = &hypervisor.ExitError{
			VMM: "passt", Status: d.cmd.ProcessState.String(),
			Stderr: strings.Join(d.stderr.Lines(lastLines), "\n"),
		}
	}
	d.mu.Unlock()
	close(d.ended)
}

// Socket returns the connected stream socket for the VMM. It belongs to the
// Daemon, which closes it in Stop; a VMM gets a duplicate.
func (d *Daemon) Socket() *os.File { return d.socket }

// PID returns the process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Wait blocks until passt has ended. It returns nil when it ended well, which it
// does when the VMM hangs up, or by Stop; a *hypervisor.ExitError with its last
// words otherwise; or ctx's error.
func (d *Daemon) Wait(ctx context.Context) error {
	select {
	case <-d.ended:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.outcome
	case <-ctx.Done():
		return fmt.Errorf("wait for passt: %w", ctx.Err())
	}
}

// Stop kills passt, waits for its end, and closes the socket. Idempotent.
func (d *Daemon) Stop() error {
	_ = d.socket.Close()
	d.mu.Lock()
	d.stopped = true
	if !d.reaped {
		_ = syscall.Kill(d.cmd.Process.Pid, syscall.SIGKILL)
	}
	d.mu.Unlock()
	<-d.ended
	return nil
}
