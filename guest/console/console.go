// Package console runs processes in the guest itself, in the agent's own
// namespaces, for those who look for a fault: a shell, if the image has one. The
// host has to permit it when it sets the pod up; until then everything is refused.
//
// Such a process is root of the guest, and no container's: it is in no control
// group of the containers, and ends with the machine.
package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
)

const (
	// maxProcesses bounds those that run, and those whose exits nobody has asked
	// for; of the latter the oldest are forgotten.
	maxProcesses = 32
	// path is where programs of the image are, for who names none.
	path = "/bin:/sbin:/usr/bin:/usr/sbin"
)

// Console runs processes in the guest. Its methods may be called from any
// goroutine.
type Console struct {
	log     *slog.Logger
	streams Streams

	mu        sync.Mutex // guards what follows
	allowed   bool
	processes map[string]*process // nil: it is being started
	exited    []string            // their names, the oldest first
}

// Exit is how a process ended.
type Exit struct {
	Code, Signal int
	At           time.Time
}

// process is one of the guest.
type process struct {
	cmd   *exec.Cmd
	stdio *stdio
	done  chan struct{} // closed when exit is set
	exit  Exit
}

// New returns a console that refuses everything.
func New(log *slog.Logger, streams Streams) *Console {
	return &Console{log: log, streams: streams, processes: make(map[string]*process)}
}

// Allow permits processes from now on.
func (c *Console) Allow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.allowed = true
}

// Exec starts a process in the guest.
func (c *Console) Exec(req *protocol.ExecProcessRequest) (err error) {
	name := req.GetProcessId()
	spec := &specs.Process{}
	if err := json.Unmarshal(req.GetProcessJson(), spec); err != nil {
		return status.Errorf(codes.InvalidArgument, "exec in the guest: process: %v", err)
	}
	if name == "" || len(spec.Args) == 0 {
		return status.Error(codes.InvalidArgument, "exec in the guest: the process has no name, or no program")
	}
	if err := c.reserve(name); err != nil {
		return err
	}
	p := &process{done: make(chan struct{})}
	defer func() { c.record(name, p, err) }()
	if p.cmd, err = command(spec); err != nil {
		return err
	}
	if p.stdio, err = connect(c.streams, req, p.cmd, spec.Terminal); err != nil {
		return err
	}
	if size := spec.ConsoleSize; size != nil && spec.Terminal {
		// The program starts without a size otherwise.
		_ = p.stdio.resize(uint16(size.Height), uint16(size.Width))
	}
	if err := p.cmd.Start(); err != nil {
		p.stdio.abort()
		return failure(spec.Args[0], err)
	}
	// It is the first to go when memory lacks, while the agent is the last.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.cmd.Process.Pid), []byte("1000"), 0)
	p.stdio.begin()
	return nil
}

// reserve takes a name for a process that is about to start.
func (c *Console) reserve(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.allowed {
		return status.Error(codes.PermissionDenied, "exec in the guest: the host's configuration does not permit it")
	}
	if _, taken := c.processes[name]; taken {
		return status.Errorf(codes.AlreadyExists, "exec in the guest: process %q exists already", name)
	}
	if len(c.processes)-len(c.exited) >= maxProcesses {
		return status.Errorf(codes.ResourceExhausted, "exec in the guest: %d processes run already", maxProcesses)
	}
	c.processes[name] = nil
	return nil
}

// record keeps a process that was started, or frees its name.
func (c *Console) record(name string, p *process, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.processes, name)
		return
	}
	c.processes[name] = p
	go c.await(name, p)
}

// command is the process to be started.
func command(spec *specs.Process) (*exec.Cmd, error) {
	env := spec.Env
	if !slices.ContainsFunc(env, func(entry string) bool { return strings.HasPrefix(entry, "PATH=") }) {
		env = append(slices.Clone(env), "PATH="+path)
	}
	program, err := find(spec.Args[0], env)
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{
		Path: program, Args: spec.Args, Env: env, Dir: cmp.Or(spec.Cwd, "/"),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: spec.Terminal},
	}, nil
}

// find looks for a program by the process's own PATH, not the agent's.
func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	dirs := ""
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			dirs = value
		}
	}
	for dir := range strings.SplitSeq(dirs, ":") {
		candidate := dir + "/" + name
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", failure(name, fs.ErrNotExist)
}

// failure tells apart a program that is not there, which is the rule: the image has
// the agent alone.
func failure(program string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return status.Errorf(codes.NotFound, "exec in the guest: its image has no program %q", program)
	}
	return fmt.Errorf("exec in the guest: %w", err)
}

// await is the goroutine of a process.
func (c *Console) await(name string, p *process) {
	_ = p.cmd.Wait() // what it says is in the state
	p.exit = Exit{Code: 255, At: time.Now()}
	if state, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
		p.exit.Code = state.ExitStatus()
		if state.Signaled() {
			p.exit.Signal = int(state.Signal())
			p.exit.Code = 128 + p.exit.Signal
		}
	} else {
		c.log.Error("exit code lost", "process", name)
	}
	p.stdio.finish()
	c.retire(name)
	close(p.done)
}

// retire notes that a process has exited, and forgets the oldest.
func (c *Console) retire(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exited = append(c.exited, name)
	if len(c.exited) > maxProcesses {
		delete(c.processes, c.exited[0])
		c.exited = c.exited[1:]
	}
}

// process finds one that was started.
func (c *Console) process(name string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.processes[name]
	if p == nil {
		return nil, status.Errorf(codes.NotFound, "the guest has no process %q of its own", name)
	}
	return p, nil
}

// Wait returns how a process ended, as soon as it has. It ends early with ctx.
func (c *Console) Wait(ctx context.Context, name string) (Exit, error) {
	p, err := c.process(name)
	if err != nil {
		return Exit{}, err
	}
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for process %q of the guest: %w", name, context.Cause(ctx))
	}
}

// Signal sends a signal to a process and, since it leads a session, to those of
// its group: the pipeline of a shell that reads no terminal.
func (c *Console) Signal(name string, signal uint32) error {
	p, err := c.process(name)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
		return status.Errorf(codes.FailedPrecondition, "process %q of the guest does not run any more", name)
	default:
	}
	if err := unix.Kill(-p.cmd.Process.Pid, unix.Signal(signal)); err != nil {
		return fmt.Errorf("send signal %d to process %q of the guest: %w", signal, name, err)
	}
	return nil
}

// Resize sets the size of a process's terminal.
func (c *Console) Resize(name string, rows, columns uint32) error {
	const limit = 1<<16 - 1
	p, err := c.process(name)
	if err != nil {
		return err
	}
	if rows > limit || columns > limit {
		return status.Errorf(codes.InvalidArgument, "resize terminal: %d rows, %d columns", rows, columns)
	}
	return p.stdio.resize(uint16(rows), uint16(columns))
}
