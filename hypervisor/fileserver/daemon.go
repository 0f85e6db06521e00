package fileserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
)

// Name is what the configuration and the process list call the server.
const Name = "kata-fs"

// wantedDescriptors is the limit of open files that the server gets where that can
// be had.
const wantedDescriptors = 1_000_000

// Options say what to share and how.
type Options struct {
	// SharedDir is the directory to share, an absolute path. The server's mount
	// namespace is a slave of the caller's: what is mounted below a shared mount
	// later reaches the guest.
	SharedDir string
	// Cache is how long the guest may keep what it read: "never", "auto" (the
	// default) or "always".
	Cache string
	// Jail confines the server, as root with a file server's capabilities, whatever
	// user it names; nil: not.
	Jail *jail.Options
	// Starter forks the server. It must outlive it. Nil: the server gets one for
	// itself.
	Starter *child.Starter
	// Count has the server tell at its end, on standard error, how many requests it
	// had of each kind.
	Count bool
	// Log gets debug messages. Nil: none.
	Log *slog.Logger
}

// Daemon is a server that was started: this program once more, which calls Run
// under Command. Its Wait returns nil when the VMM has hung up. Its methods are safe
// for concurrent use.
type Daemon struct {
	*child.Helper
	socket *os.File
}

// Start starts a server. ctx bounds the call, not the server's life.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	d, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", Name, err)
	}
	return d, nil
}

func start(ctx context.Context, o Options) (*Daemon, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(o.SharedDir) {
		return nil, fmt.Errorf("shared directory %q is not absolute", o.SharedDir)
	}
	if info, err := os.Stat(o.SharedDir); err != nil {
		return nil, fmt.Errorf("share a directory: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("share %s: %w", o.SharedDir, syscall.ENOTDIR)
	}
	if o.Cache == "" {
		o.Cache = "auto"
	}
	argument, err := json.Marshal(settings{Root: o.SharedDir, Cache: o.Cache, MaxFiles: wantedDescriptors, Count: o.Count})
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	// The server outlives the call, so ctx must not end it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self)
	cmd.Args = []string{Name, Command, string(argument)}
	cmd.ExtraFiles = []*os.File{theirs}
	if o.Log != nil {
		o.Log.DebugContext(ctx, "start file server", "arguments", cmd.Args)
	}
	if err := confine(ctx, cmd, o); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	helper, err := child.StartHelper(o.Starter, Name, cmd, keepCapabilities)
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return &Daemon{Helper: helper, socket: ours}, nil
}

// keepCapabilities lets the server keep its capabilities while it has the user of a
// process in the guest, to make a file that belongs to it. The guest's kernel has
// decided then whether that process may.
const keepCapabilities = 1 << 2 // SECBIT_NO_SETUID_FIXUP

// socketPair returns the VMM's end of a connection and the server's.
func socketPair() (vmm, server *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "vhost-user of the VMM"), os.NewFile(uintptr(fds[1]), "vhost-user"), nil
}

// Socket returns the connected vhost-user socket for the VMM. It belongs to the
// Daemon, which closes it in Stop; a VMM gets a duplicate. The server ends when
// every copy of it is closed.
func (d *Daemon) Socket() *os.File { return d.socket }

// Stop kills the server, waits for its end, and closes the socket. Idempotent.
func (d *Daemon) Stop() error {
	_ = d.socket.Close()
	d.Helper.Stop()
	return nil
}
