package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// Options say what to share and how.
type Options struct {
	// Path is the daemon's program. Empty: it is searched.
	Path string
	// SharedDir is the directory to share, an absolute path. The daemon's
	// mount namespace is a slave of the caller's: what is mounted below a
	// shared mount later reaches the guest.
	SharedDir string
	// Cache is how long the guest may keep what it read: "never", "auto"
	// (about a second; the default), "always", and, with the Rust daemon
	// alone, "metadata".
	Cache string
	// ExtraArgs follow the package's own arguments.
	ExtraArgs []string
	// SocketDir is a directory that only this user can enter, of any length.
	// Empty: a temporary one, for a moment.
	SocketDir string
	// Starter forks the daemon. It must outlive the daemon. Nil: the daemon
	// gets one for itself.
	Starter *child.Starter
	// Log gets debug messages. Nil: none.
	Log *slog.Logger
}

// Daemon is a virtiofsd that was started. Its methods are safe for concurrent
// use.
type Daemon struct {
	installation Installation
	cmd          *exec.Cmd
	socket       *os.File
	stderr       *tail.Buffer
	starter      *child.Starter // nil when it is the caller's
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
)

// Start starts a daemon and returns with its socket connected; whether the
// daemon came up shows in Wait. ctx bounds the call, not the daemon's life.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start virtiofsd: %w", err)
	}
	installation, err := locate(o.Path)
	if err != nil {
		return nil, fmt.Errorf("start virtiofsd: %w", err)
	}
	limit, err := descriptorLimit()
	if err != nil {
		return nil, fmt.Errorf("start virtiofsd: %w", err)
	}
	args, err := arguments(installation.Kind, o, limit)
	if err != nil {
		return nil, fmt.Errorf("start virtiofsd: %w", err)
	}
	if info, err := os.Stat(o.SharedDir); err != nil {
		return nil, fmt.Errorf("share a directory: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("share %s: %w", o.SharedDir, syscall.ENOTDIR)
	}
	listening, connected, err := socketIn(o.SocketDir)
	if err != nil {
		return nil, err
	}
	defer listening.Close()
	d := &Daemon{
		installation: installation, socket: connected,
		stderr: &tail.Buffer{}, ended: make(chan struct{}),
	}
	// The daemon outlives the call, so ctx must not end it.
	d.cmd = exec.CommandContext(context.WithoutCancel(ctx), installation.Path, args...)
	d.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	d.cmd.Dir = "/"
	d.cmd.ExtraFiles = []*os.File{listening}
	d.cmd.Stderr = d.stderr
	d.cmd.WaitDelay = stderrGrace
	starter := o.Starter
	if starter == nil {
		starter = child.NewStarter()
		d.starter = starter
	}
	if o.Log != nil {
		o.Log.DebugContext(ctx, "start virtiofsd", "path", installation.Path, "arguments", args)
	}
	if err := starter.Start(d.cmd); err != nil {
		_ = connected.Close()
		if d.starter != nil {
			d.starter.Close()
		}
		return nil, fmt.Errorf("start virtiofsd: %w", err)
	}
	go d.monitor()
	return d, nil
}

// socketIn is connectedSocket with a temporary directory where dir is empty.
func socketIn(dir string) (listening, connected *os.File, err error) {
	if dir != "" {
		return connectedSocket(dir)
	}
	if dir, err = os.MkdirTemp("", "virtiofsd-"); err != nil {
		return nil, nil, fmt.Errorf("make virtiofsd's socket: %w", err)
	}
	defer os.Remove(dir)
	return connectedSocket(dir)
}

// monitor waits for the daemon's end.
func (d *Daemon) monitor() {
	awaitExit(d.cmd.Process.Pid)
	d.mu.Lock()
	d.killGroup()
	d.reaped = true
	d.mu.Unlock()
	err := d.cmd.Wait()
	if d.starter != nil {
		d.starter.Close()
	}
	d.mu.Lock()
	if !d.stopped && (err != nil || !d.cmd.ProcessState.Success()) {
		d.outcome = &hypervisor.ExitError{
			VMM: "virtiofsd", Status: d.cmd.ProcessState.String(),
			Stderr: strings.Join(d.stderr.Lines(lastLines), "\n"),
		}
	}
	d.mu.Unlock()
	close(d.ended)
}

// Socket returns the connected vhost-user socket for the VMM. It belongs to the
// Daemon, which closes it in Stop; a VMM gets a duplicate. The daemon ends when
// every copy of it is closed, so that after the VMM has it, CloseSocket lets
// the daemon follow the VMM.
func (d *Daemon) Socket() *os.File { return d.socket }

// CloseSocket closes this process's copy of the socket. Idempotent.
func (d *Daemon) CloseSocket() { _ = d.socket.Close() }

// Installation tells which daemon it is.
func (d *Daemon) Installation() Installation { return d.installation }

// PID returns the daemon's process; the process that serves may be its child.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Stderr returns what the daemon wrote to its standard error.
func (d *Daemon) Stderr() *tail.Buffer { return d.stderr }

// Wait blocks until the daemon has ended. It returns nil when it ended well,
// which it does when the VMM hangs up, or by Stop; a *hypervisor.ExitError with
// its last words otherwise; or ctx's error.
func (d *Daemon) Wait(ctx context.Context) error {
	select {
	case <-d.ended:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.outcome
	case <-ctx.Done():
		return fmt.Errorf("wait for virtiofsd: %w", ctx.Err())
	}
}

// Stop kills the daemon, waits for its end, and closes the socket. Idempotent.
func (d *Daemon) Stop() error {
	_ = d.socket.Close()
	d.mu.Lock()
	d.stopped = true
	d.killGroup()
	d.mu.Unlock()
	<-d.ended
	return nil
}

// killGroup kills the daemon's processes: the first one only waits for the
// second, which serves. d.mu is held.
func (d *Daemon) killGroup() {
	if !d.reaped {
		_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// awaitExit waits until a child has ended and leaves it to be reaped, so that
// its id, which is its group's too, is not given to another process yet.
func awaitExit(pid int) {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
}
