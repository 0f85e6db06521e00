package supervisor

import (
	"context"
	"errors"
	"syscall"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/supervisor/api"
)

// ExecProcess implements api.SupervisorService.
func (s *server) ExecProcess(ctx context.Context, request *api.ExecProcessRequest) (*api.Empty, error) {
	if err := s.exec(ctx, request); err != nil {
		return nil, asStatus(err)
	}
	return &api.Empty{}, nil
}

func (s *server) exec(ctx context.Context, request *api.ExecProcessRequest) error {
	id, name := request.GetContainerId(), request.GetProcessId()
	owner, conn, err := s.claimStandIn(request.GetChannel(), processKey{id, name})
	if err != nil {
		return err
	}
	c, err := s.beginExec(id)
	if err != nil {
		conn.Close()
		return err
	}
	defer c.execs.Done()
	pid := int(request.GetStandInPid())
	if err := placeStandIn(c.group, pid, request.GetStandInStartTime(), c.group.Add); err != nil {
		conn.Close()
		return err
	}
	if request.GetIgnorePaused() {
		if err := c.core.AwaitThaw(ctx); err != nil {
			conn.Close()
			return err
		}
	}
	process, err := c.core.Exec(ctx, virtcontainers.ExecOptions{
		ID: name, Process: request.GetProcessJson(),
		IO:     virtcontainers.IO{Stdin: request.GetStdin(), Stdout: request.GetStdout(), Stderr: request.GetStderr()},
		Cgroup: request.GetCgroup(),
	})
	if err != nil {
		conn.Close()
		return err
	}
	kill := func(ctx context.Context) error { return process.Signal(ctx, syscall.SIGKILL) }
	standIn := newStandIn(conn, process, kill, s.log.With("container", id, "process", name))
	err = standIn.begin(ctx)
	c.execs.Add(1)
	s.addExec(c, pid, standIn)
	s.background.Go(func() {
		defer c.execs.Done()
		s.seeThrough(c, process, standIn)
		s.removeExec(c, pid)
	})
	if err == nil {
		err = s.lease(owner, process)
	}
	if err != nil {
		return joinKill(context.WithoutCancel(ctx), process, err)
	}
	return nil
}

// seeThrough waits for a process's end, and for its output to be taken. A guest
// that tells of the container's end has to tell of its processes' too.
func (s *server) seeThrough(c *container, process *virtcontainers.Process, standIn *standIn) {
	select {
	case <-process.Done():
		standIn.close(process.Exit())
	case <-c.overdue:
		s.log.Error("a process survives its container: its output is given up", "container", c.id)
		standIn.abandon()
		standIn.close(virtcontainers.Exit{Code: 128 + uint8(syscall.SIGKILL)})
	}
}

// addExec notes the stand-in of a process that runs; removeExec undoes it.
func (s *server) addExec(c *container, pid int, standIn *standIn) {
	s.mu.Lock()
	c.execStandIns[pid] = standIn
	abandoned := c.abandoned
	s.mu.Unlock()
	if abandoned {
		standIn.abandon()
	}
}

func (s *server) removeExec(c *container, pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(c.execStandIns, pid)
}

// beginExec finds a container and holds its end until the caller is done.
func (s *server) beginExec(id string) (*container, error) {
	c, err := s.lookup(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.ended {
		return nil, virtcontainers.ErrNotRunning
	}
	c.execs.Add(1)
	return c, nil
}

// lease ties a process to the command that asked for it, unless that is gone
// already.
func (s *server) lease(owner *commandChannel, process *virtcontainers.Process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, connected := s.channels[owner.token]; !connected {
		return errCommandGone
	}
	owner.execs = append(owner.execs, process)
	return nil
}

// joinKill ends a process that cannot be kept, and returns why.
func joinKill(ctx context.Context, process *virtcontainers.Process, cause error) error {
	err := process.Signal(ctx, syscall.SIGKILL)
	if errors.Is(err, virtcontainers.ErrNotRunning) {
		err = nil
	}
	return errors.Join(cause, err)
}
