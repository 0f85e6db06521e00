package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/internal/pipetail"
	"kata-runtime/virtcontainers/osthread"
)

// Kind is one of the lists of hooks, by its name in the config.
type Kind string

// The kinds whose hooks are programs of the host.
const (
	Prestart        Kind = "prestart"
	CreateRuntime   Kind = "createRuntime"
	CreateContainer Kind = "createContainer"
	Poststart       Kind = "poststart"
	Poststop        Kind = "poststop"
)

// Options say where hooks run.
type Options struct {
	// Dir is their working directory, resolved in their mount namespace.
	Dir string
	// Join, if any, is called on the thread that forks a hook: what it does to
	// the thread's namespaces, the hook inherits.
	Join func() error
}

// Error is the failure of one hook.
type Error struct {
	Kind  Kind
	Index int // in its list
	Path  string
	// Stderr is the end of what the hook wrote to its standard error.
	Stderr string
	// Err is what went wrong.
	Err error
}

// Error names the hook, what went wrong and what the hook said of it, on one
// line.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s hook #%d (%s): %v", e.Kind, e.Index, e.Path, e.Err)
	if e.Stderr != "" {
		text += fmt.Sprintf("; its standard error ends %q", e.Stderr)
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Run runs hooks in their order, with state on their standard input, up to the
// first that fails, whose *Error it returns.
func Run(ctx context.Context, kind Kind, list []specs.Hook, state []byte, options Options) error {
	for i, hook := range list {
		if err := run(ctx, kind, i, hook, state, options); err != nil {
			return err
		}
	}
	return nil
}

// RunAll runs every hook, whichever of them fail, and returns an *Error for
// each that did.
func RunAll(ctx context.Context, kind Kind, list []specs.Hook, state []byte, options Options) []error {
	var failures []error
	for i, hook := range list {
		if err := run(ctx, kind, i, hook, state, options); err != nil {
			failures = append(failures, err)
		}
	}
	return failures
}

func run(ctx context.Context, kind Kind, index int, hook specs.Hook, state []byte, options Options) error {
	var stderr string
	// The kernel ties a parent-death signal to the thread that forked, so that
	// one stays until the hook has ended.
	err := osthread.Run(func() (err error) {
		if options.Join != nil {
			if err := options.Join(); err != nil {
				return err
			}
		}
		stderr, err = execute(ctx, hook, state, options)
		return err
	})
	if err != nil {
		return &Error{Kind: kind, Index: index, Path: hook.Path, Stderr: strings.TrimSpace(stderr), Err: err}
	}
	return nil
}

// execute runs one hook to its end and returns the end of its standard error.
func execute(ctx context.Context, hook specs.Hook, state []byte, options Options) (string, error) {
	if timeout, ok := Bound([]specs.Hook{hook}); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, &timeoutError{timeout})
		defer cancel()
	}
	stdin, err := memoryFile(state)
	if err != nil {
		return "", err
	}
	defer stdin.Close()
	stderr, writer, err := pipetail.New()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, hook.Path)
	if len(hook.Args) > 0 {
		cmd.Args = hook.Args
	}
	cmd.Env = append([]string{}, hook.Env...) // none at all, rather than this process's
	if len(hook.Env) == 0 && options.Join == nil {
		cmd.Env = os.Environ() // as runc: hooks rely on PATH
	}
	cmd.Dir = options.Dir
	cmd.Stdin, cmd.Stderr = stdin, writer
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	started := func(string) error { return nil }
	if options.Join == nil {
		cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	} else {
		b, err := become(cmd)
		if err != nil {
			writer.Close()
			return stderr.Finish(), err
		}
		defer b.close()
		started = b.started
	}
	err = cmd.Start()
	writer.Close() // the hook has its own
	if err == nil {
		startErr := started(hook.Path)
		err = cmd.Wait()
		if ctx.Err() != nil && err != nil {
			err = context.Cause(ctx)
		} else if startErr != nil {
			err = startErr
		}
	}
	return stderr.Finish(), err
}

// timeoutError says that a hook was killed for being slow.
type timeoutError struct{ timeout time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("killed: it ran past its timeout of %v", e.timeout)
}

func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// memoryFile holds the state for a hook to read, or not to: nobody has to wait
// for either.
func memoryFile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a memory file for the state: %w", err)
	}
	file := os.NewFile(uintptr(fd), "state")
	if _, err := file.WriteAt(data, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("write the state: %w", err), file.Close())
	}
	return file, nil
}

// Bound adds up the timeouts of hooks. Not ok: one of them has none.
func Bound(list []specs.Hook) (total time.Duration, ok bool) {
	const longest = 1 << 30 // seconds: sums stay far from an overflow
	for _, hook := range list {
		if hook.Timeout == nil {
			return 0, false
		}
		total += time.Duration(min(*hook.Timeout, longest)) * time.Second
	}
	return total, true
}
