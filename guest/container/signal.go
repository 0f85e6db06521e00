package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// Signal sends a signal to a process, or with all to every process of the
// container. A process that has exited is ErrNotRunning; a container without
// processes is no error with all.
func (r *Runtime) Signal(ctx context.Context, id, name string, signal uint32, all bool) error {
	const lastSignal = 64
	if signal > lastSignal {
		return fmt.Errorf("%w: signal %d", ErrInvalid, signal)
	}
	c, p, err := r.process(id, name)
	if err != nil {
		return err
	}
	sig := unix.Signal(signal)
	if name == "" {
		done, err := c.signalAsleep(sig)
		if err == nil && !done {
			err = r.wake(ctx, c)
		}
		if all && errors.Is(err, ErrNotRunning) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("signal container %q: %w", id, err)
		}
		if done {
			return nil
		}
	}
	switch {
	case all && sig == unix.SIGKILL:
		err = c.killAll()
	case all:
		err = c.signalAll(sig)
	case p.exited():
		err = ErrNotRunning
	case name == "":
		err = c.lc.Signal(sig)
	default:
		err = p.lp.Signal(sig)
	}
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, libcontainer.ErrNotRunning) || errors.Is(err, unix.ESRCH) {
		err = ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("signal container %q: %w", id, err)
	}
	return nil
}

// killAll kills every process of the container, frozen ones included.
func (c *container) killAll() error {
	dir := c.cgroupDir()
	if dir == "" {
		return c.signalAll(unix.SIGKILL)
	}
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("kill every process: %w", err)
	}
	return nil
}

// signalAll signals the processes that the container has now, and those that
// they make meanwhile: it repeats until it finds no new one.
func (c *container) signalAll(sig unix.Signal) error {
	seen := map[int]bool{}
	for {
		pids, err := c.lc.Processes()
		if err != nil {
			return err
		}
		fresh := false
		for _, pid := range pids {
			if seen[pid] {
				continue
			}
			seen[pid], fresh = true, true
			if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
				return fmt.Errorf("signal process %d: %w", pid, err)
			}
		}
		if !fresh {
			return nil
		}
	}
}
