package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
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
)

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

// Stop kills the process with its group and waits for its end. Idempotent.
func (h *Helper) Stop() {
	h.mu.Lock()
	h.stopped = true
	h.killGroup()
	h.mu.Unlock()
	<-h.ended
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
