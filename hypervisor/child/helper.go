package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/tail"
)

const (
	lastLines   = 5
	stderrGrace = time.Second
	// KillTimeout bounds the wait for a process that was killed: one that is in a call
	// into the kernel which does not end, as for a file server that does not answer,
	// ends after that call, or never.
	KillTimeout = 30 * time.Second
)

// ErrStays says that a process was killed and is still there.
var ErrStays = errors.New("was killed and does not end")

// Helper is a daemon that serves a VM beside its VMM. Its methods are safe for
// concurrent use.
type Helper struct {
	name   string
	cmd    *exec.Cmd
	stderr *tail.Buffer
	// ended is closed when the process has ended; outcome is set before.
	ended   chan struct{}
	outcome error

	mu sync.Mutex
	// stopped and reaped are guarded by mu. reaped says that the process id
	// may be another's.
	stopped, reaped bool
}

// StartHelper starts cmd, whose standard error it keeps the last words of, for
// errors that call it by name; a cmd.Stderr that is set gets it too. The starter must
// outlive it; nil: it gets one for itself. Its environment has a PATH and no language,
// beside what cmd.Env has. For securebits see Starter.StartWithSecurebits.
func StartHelper(starter *Starter, name string, cmd *exec.Cmd, securebits int) (*Helper, error) {
	h := &Helper{name: name, cmd: cmd, stderr: &tail.Buffer{}, ended: make(chan struct{})}
	cmd.Env = append(cmd.Env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C")
	cmd.Dir = "/"
	if cmd.Stderr == nil {
		cmd.Stderr = h.stderr
	} else {
		cmd.Stderr = io.MultiWriter(h.stderr, cmd.Stderr)
	}
	cmd.WaitDelay = stderrGrace
	release := func() {}
	if starter == nil {
		starter = NewStarter()
		release = starter.Close
	}
	if err := starter.StartWithSecurebits(cmd, securebits); err != nil {
		release()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go h.monitor(release)
	return h, nil
}

// monitor waits for the process's end.
func (h *Helper) monitor(release func()) {
	awaitExit(h.cmd.Process.Pid)
	h.mu.Lock()
	h.killGroup()
	h.reaped = true
	h.mu.Unlock()
	err := h.cmd.Wait()
	release()
	h.mu.Lock()
	if !h.stopped && (err != nil || !h.cmd.ProcessState.Success()) {
		h.outcome = &hypervisor.ExitError{
			VMM: h.name, Status: h.cmd.ProcessState.String(),
			Stderr: strings.Join(h.stderr.Lines(lastLines), "\n"),
		}
	}
	h.mu.Unlock()
	close(h.ended)
}

// PID returns the process; the one that serves may be its child.
func (h *Helper) PID() int { return h.cmd.Process.Pid }

// Stderr returns what the process wrote to its standard error.
func (h *Helper) Stderr() *tail.Buffer { return h.stderr }

// Wait blocks until the process has ended. It returns nil when it ended well or
// by Stop, a *hypervisor.ExitError with its last words otherwise, or ctx's
// error.
func (h *Helper) Wait(ctx context.Context) error {
	select {
	case <-h.ended:
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.outcome
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", h.name, ctx.Err())
	}
}

// Stop kills the process with its group and waits for its end, but no longer than
// KillTimeout: then it wraps ErrStays. Idempotent.
func (h *Helper) Stop() error {
	h.mu.Lock()
	h.stopped = true
	h.killGroup()
	h.mu.Unlock()
	return AwaitKilled(context.Background(), h.name, h.PID(), h.ended, KillTimeout)
}

// AwaitKilled waits until ended is closed, which says that a process that was killed
// has ended, but no longer than for a time. The error then wraps ErrStays and tells
// what the kernel says of it.
func AwaitKilled(ctx context.Context, name string, pid int, ended <-chan struct{}, most time.Duration) error {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("%s (process %d) %w within %s, %s: see /proc/%d/stack, and the disks and file systems that it uses",
			name, pid, ErrStays, most, inKernel(pid), pid)
	}
}

// inKernel tells a process's state, and what it waits for in the kernel.
func inKernel(pid int) string {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	text := "its state is unknown"
	if data, err := os.ReadFile(filepath.Join(dir, "status")); err == nil {
		for line := range strings.Lines(string(data)) {
			if state, found := strings.CutPrefix(line, "State:"); found {
				text = "its state is " + strings.TrimSpace(state)
			}
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "wchan")); err == nil && len(data) > 0 && string(data) != "0" {
		text += " in " + string(data)
	}
	return text
}

// Kill kills the process with its group, because something is wrong with it: Wait
// returns that it was killed.
func (h *Helper) Kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.killGroup()
}

// killGroup kills the process and those that it has forked. h.mu is held.
func (h *Helper) killGroup() {
	if !h.reaped {
		_ = syscall.Kill(-h.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// awaitExit waits until a child has ended and leaves it to be reaped, so that
// its id, which is its group's too, is not given to another process yet.
func awaitExit(pid int) {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
}
