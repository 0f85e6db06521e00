package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/internal/pipetail"
)

// The startContainer hooks run in the container before its program does: as
// processes beside the first one, which waits, with the same user, capabilities
// and limits. libcontainer could run them in the first process, but then nobody
// would learn how they ended.

const (
	hookArgument = "hook"
	// hookName is a hook's among the container's processes.
	hookName = "startContainer hook"
	// hookFD is where runHookProgram finds its hookProgram.
	hookFD = 3
	// hookFailure is the exit code of a hook whose program cannot be run.
	hookFailure = 127
)

// hookProgram is what runHookProgram becomes.
type hookProgram struct {
	Path      string
	Args, Env []string
}

// takeHooks keeps the startContainer hooks of the specification, and the host's
// view of the container that they get.
func (c *container) takeHooks(state []byte) error {
	if c.spec.Hooks != nil {
		c.hooks = c.spec.Hooks.StartContainer
	}
	c.state = specs.State{Version: c.spec.Version, ID: c.id, Annotations: c.spec.Annotations}
	if len(state) == 0 {
		return nil
	}
	if err := json.Unmarshal(state, &c.state); err != nil {
		return fmt.Errorf("%w: state: %w", ErrInvalid, err)
	}
	return nil
}

// runHooks runs the startContainer hooks in their order, up to the first that
// fails.
func (c *container) runHooks(ctx context.Context) error {
	if len(c.hooks) == 0 {
		return nil
	}
	state, err := c.hookState()
	if err != nil {
		return err
	}
	for i, hook := range c.hooks {
		complaint, err := c.runHook(ctx, hook, state)
		if err == nil {
			continue
		}
		err = fmt.Errorf("startContainer hook #%d (%s): %w", i, hook.Path, err)
		if complaint = strings.TrimSpace(complaint); complaint != "" {
			err = fmt.Errorf("%w; its standard error ends %q", err, complaint)
		}
		return err
	}
	return nil
}

// hookState is the container's state as it is seen from inside.
func (c *container) hookState() ([]byte, error) {
	pid, err := innerPID(c.init.lp)
	if err != nil {
		return nil, err
	}
	state := c.state
	state.Pid, state.Status = pid, specs.StateCreated
	data, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("encode the state for hooks: %w", err)
	}
	return data, nil
}

// innerPID is the pid of a process in its own PID namespace.
func innerPID(lp *libcontainer.Process) (int, error) {
	pid, err := lp.Pid()
	if err != nil {
		return 0, fmt.Errorf("find the container's first process: %w", err)
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, fmt.Errorf("find the container's first process: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if pids := strings.Fields(list); len(pids) > 0 {
				return strconv.Atoi(pids[len(pids)-1])
			}
		}
	}
	return 0, fmt.Errorf("process %d tells no pid of its namespace", pid)
}

// runHook runs one hook to its end and returns the end of its standard error.
func (c *container) runHook(ctx context.Context, hook specs.Hook, state []byte) (string, error) {
	if hook.Timeout != nil {
		const longest = 1 << 30 // seconds
		timeout := time.Duration(min(*hook.Timeout, longest)) * time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("killed: it ran past its timeout of %v", timeout))
		defer cancel()
	}
	lp, err := newProcess(c.spec.Process)
	if err != nil {
		return "", err
	}
	program, err := aimAt(lp, hook)
	if err != nil {
		return "", err
	}
	defer program.Close()
	stdin, err := memoryFile("state", state)
	if err != nil {
		return "", err
	}
	defer stdin.Close()
	stderr, writer, err := pipetail.New()
	if err != nil {
		return "", err
	}
	lp.Stdin, lp.Stderr = stdin, writer
	err = c.startHook(lp)
	writer.Close() // the hook has its own
	if err == nil {
		err = c.awaitHook(ctx, lp)
	}
	return stderr.Finish(), err
}

// startHook starts a hook's process where Remove finds it.
func (c *container) startHook(lp *libcontainer.Process) error {
	placeholder := &process{name: hookName, done: make(chan struct{})}
	if err := c.reserveExec(placeholder); err != nil {
		return err
	}
	if err := c.lc.Start(lp); err != nil {
		c.settleExec(placeholder, nil)
		return err
	}
	c.settleExec(placeholder, &process{name: hookName, lp: lp, done: make(chan struct{})})
	return nil
}

// awaitHook waits for a hook's end, and brings it about when ctx ends.
func (c *container) awaitHook(ctx context.Context, lp *libcontainer.Process) error {
	// A signal fails only when the hook has ended.
	stop := context.AfterFunc(ctx, func() { _ = lp.Signal(syscall.SIGKILL) })
	_, err := lp.Wait()
	if !stop() && err != nil {
		err = context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.execs[hookName].done)
	delete(c.execs, hookName)
	return err
}

// aimAt makes lp run the hook's program. libcontainer can give a program
// neither a name other than its path nor an environment without HOME, so this
// program becomes it in the container, where it finds what to become in the
// returned file. It is within reach there: libcontainer makes no container
// without a procfs.
func aimAt(lp *libcontainer.Process, hook specs.Hook) (*os.File, error) {
	args := hook.Args
	if len(args) == 0 {
		args = []string{hook.Path}
	}
	data, err := json.Marshal(hookProgram{Path: hook.Path, Args: args, Env: hook.Env})
	if err != nil {
		return nil, fmt.Errorf("encode the hook: %w", err)
	}
	program, err := memoryFile("hook", data)
	if err != nil {
		return nil, err
	}
	lp.Args, lp.Env = []string{"/proc/self/exe", hookArgument}, nil
	lp.ExtraFiles = []*os.File{program}
	return program, nil
}

// runHookProgram is the helper's part of aimAt. It returns only when it fails.
func runHookProgram() error {
	unix.CloseOnExec(hookFD)
	file := os.NewFile(hookFD, "hook")
	var program hookProgram
	if err := json.NewDecoder(file).Decode(&program); err != nil {
		return fmt.Errorf("read the hook: %w", err)
	}
	if err := unix.Exec(program.Path, program.Args, program.Env); err != nil {
		return &os.PathError{Op: "run", Path: program.Path, Err: err}
	}
	return nil
}

// memoryFile holds data for another process to read, or not to.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a memory file: %w", err)
	}
	file := os.NewFile(uintptr(fd), name)
	if _, err := file.WriteAt(data, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("write a memory file: %w", err), file.Close())
	}
	return file, nil
}
