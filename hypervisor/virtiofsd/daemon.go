package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
)

// Options say what to share and how.
type Options struct {
	// Path is the daemon's program. Empty: it is searched.
	Path string
	// SharedDir is the directory to share, an absolute path. The daemon's
	// mount namespace is a slave of the caller's: what is mounted below a
	// shared mount later reaches the guest.
	SharedDir string
	// Cache is how long the guest may keep what it read: "never", "auto",
	// "relaxed" or "brief" (about a second; the default), "always", and, with the Rust daemon
	// alone, "metadata".
	Cache string
	// ExtraArgs follow the package's own arguments.
	ExtraArgs []string
	// SocketDir is a directory that only this user can enter, of any length.
	// Empty: a temporary one, for a moment.
	SocketDir string
	// CacheDir is a directory of root's alone, in which is kept what program a path is;
	// see jail.Remember. Empty: it is asked each time.
	CacheDir string
	// Jail confines the daemon, as root with a file server's capabilities,
	// whatever user it names; nil: the daemon confines itself as far as it does.
	// A program that jails it calls jail.Become, see there.
	Jail *jail.Options
	// Starter forks the daemon. It must outlive the daemon. Nil: the daemon
	// gets one for itself.
	Starter *child.Starter
	// Log gets debug messages. Nil: none.
	Log *slog.Logger
}

// Daemon is a virtiofsd that was started. Its Wait returns nil when the VMM has
// hung up. Its methods are safe for concurrent use.
type Daemon struct {
	*child.Helper
	socket *os.File
}

// Start starts a daemon and returns with its socket connected; whether the
// daemon came up shows in Wait. ctx bounds the call, not the daemon's life.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start virtiofsd: %w", err)
	}
	installation, err := locate(o.Path, o.CacheDir)
	if err != nil {
		return nil, fmt.Errorf("start virtiofsd: %w", err)
	}
	limit, err := jail.FileLimit(wantedDescriptors)
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
	// The daemon outlives the call, so ctx must not end it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), installation.Path, args...)
	cmd.ExtraFiles = []*os.File{listening}
	if o.Log != nil {
		o.Log.DebugContext(ctx, "start virtiofsd", "path", installation.Path, "arguments", args)
	}
	if err := confine(ctx, cmd, o, limit); err != nil {
		return nil, errors.Join(fmt.Errorf("start virtiofsd: %w", err), connected.Close())
	}
	helper, err := child.StartHelper(o.Starter, "virtiofsd", cmd, keepCapabilities)
	if err != nil {
		return nil, errors.Join(err, connected.Close())
	}
	return &Daemon{Helper: helper, socket: connected}, nil
}

// keepCapabilities lets the daemon keep its capabilities when it takes on the
// user of a process in the guest, to make a file that belongs to it. The guest's
// kernel has decided then whether that process may: it knows the process's
// groups and, in a user namespace, its capabilities, and the daemon knows
// neither. Without, the root of a user namespace could make nothing in a
// directory that its owner may not write, such as the / of many images.
const keepCapabilities = 1 << 2 // SECBIT_NO_SETUID_FIXUP

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

// Socket returns the connected vhost-user socket for the VMM. It belongs to the
// Daemon, which closes it in Stop; a VMM gets a duplicate. The daemon ends when
// every copy of it is closed.
func (d *Daemon) Socket() *os.File { return d.socket }

// Stop kills the daemon, waits for its end, and closes the socket. Idempotent.
func (d *Daemon) Stop() error {
	_ = d.socket.Close()
	return d.Helper.Stop()
}
