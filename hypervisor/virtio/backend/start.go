package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
)

// Command is the hidden first argument under which a program calls Run.
const Command = "backend"

// Options say what to start.
type Options struct {
	// Program is the one that serves it, an absolute path: it calls Run under Command and
	// jail.Become under jail.Command. Empty: this program.
	Program string
	// Role is the device that the process serves, a key of what Run is given. It is
	// in the process's name.
	Role string
	// Settings are what the role is told, by way of JSON; they are visible in the
	// list of processes.
	Settings any
	// Files are what the role inherits besides the VMM's connection. They stay the
	// caller's.
	Files []*os.File
	// Jail confines the process; nil: it is not. The root needs nothing to start it.
	Jail *jail.Spec
	// Securebits are those of child.StartHelper.
	Securebits int
	// Starter forks the process. It must outlive it. Nil: it gets one for itself.
	Starter *child.Starter
	// Log gets what the process says.
	Log *slog.Logger
}

// Process is a back end that was started. Its methods are safe for concurrent use.
type Process struct {
	*child.Helper
	socket *os.File
}

// arguments are what the process is told.
type arguments struct {
	Role     string          `json:"role"`
	Settings json.RawMessage `json:"settings,omitempty"`
	Files    int             `json:"files,omitempty"`
	Debug    bool            `json:"debug,omitempty"`
}

// Start starts a back end and returns with its socket connected; whether it came up
// shows in Wait. ctx bounds the call, not the process's life.
func Start(ctx context.Context, o Options) (*Process, error) {
	p, err := start(ctx, &o)
	if err != nil {
		return nil, fmt.Errorf("start the %s device's process: %w", o.Role, err)
	}
	return p, nil
}

func start(ctx context.Context, o *Options) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	theirs, vmm, err := socketPair()
	if err != nil {
		return nil, err
	}
	// With this copy closed, the process's end is the end of the VMM's connection.
	defer theirs.Close()
	cmd, err := command(ctx, o)
	if err != nil {
		return nil, errors.Join(err, vmm.Close())
	}
	cmd.ExtraFiles = append([]*os.File{theirs}, o.Files...)
	if err := confine(ctx, cmd, o); err != nil {
		return nil, errors.Join(err, vmm.Close())
	}
	lines := newLines(o.Log, o.Role)
	cmd.Stderr = lines
	helper, err := child.StartHelper(o.Starter, o.Role+" device", cmd, o.Securebits)
	if err != nil {
		return nil, errors.Join(err, vmm.Close())
	}
	return &Process{Helper: helper, socket: vmm}, nil
}

// command returns the process, not confined yet.
func command(ctx context.Context, o *Options) (*exec.Cmd, error) {
	settings, err := json.Marshal(o.Settings)
	if err != nil {
		return nil, fmt.Errorf("encode the settings: %w", err)
	}
	args, err := json.Marshal(arguments{
		Role: o.Role, Settings: settings, Files: len(o.Files), Debug: o.Log.Enabled(ctx, slog.LevelDebug),
	})
	if err != nil {
		return nil, fmt.Errorf("encode the arguments: %w", err)
	}
	// It outlives the call, so ctx must not end it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), cmp.Or(o.Program, jail.Self))
	cmd.Args = []string{"kata-" + o.Role, Command, string(args)}
	// A small heap from its first moment on. Without containermaxprocs=0, Go's
	// runtime keeps files of the caller's cgroup open.
	cmd.Env = []string{"GOGC=25", "GODEBUG=containermaxprocs=0"}
	return cmd, nil
}

// confine makes cmd one of a jailed process, in a jail with what a dynamic program
// needs besides.
func confine(ctx context.Context, cmd *exec.Cmd, o *Options) error {
	spec := o.Jail
	if spec == nil {
		return nil
	}
	libraries, err := libraries(ctx, o.Program)
	if err != nil {
		return err
	}
	confined := *spec
	confined.Step = o.Program
	if spec.Root != nil {
		root := *spec.Root
		root.Files = append(libraries, root.Files...)
		confined.Root = &root
	}
	if calls := spec.SystemCalls; len(libraries) > 0 && calls != nil && len(calls.Allowed) > 0 {
		confined.SystemCalls = &jail.SystemCalls{Allowed: append(loaderCalls(), calls.Allowed...), Log: calls.Log}
	}
	return jail.Confine(cmd, confined)
}

// libraries lists those of a program, or of this one. As they are built, they have none.
func libraries(ctx context.Context, program string) ([]string, error) {
	if program == "" {
		return jail.SelfLibraries(ctx)
	}
	return jail.Libraries(ctx, program)
}

// socketPair returns the two ends of the VMM's connection.
func socketPair() (theirs, vmm *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the VMM's connection: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "vhost-user"), os.NewFile(uintptr(fds[1]), "vhost-user of the VMM"), nil
}

// Socket returns the VMM's connected vhost-user socket. It belongs to the Process,
// which closes it in Stop; a VMM gets a duplicate.
func (p *Process) Socket() *os.File { return p.socket }

// Stop kills the process, waits for its end, and closes the socket. Idempotent.
func (p *Process) Stop() error {
	_ = p.socket.Close()
	return p.Helper.Stop()
}
