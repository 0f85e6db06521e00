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
	if err := c.group.Add(pid); err != nil {
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
	standIn := newStandIn(conn, process, s.log.With("container", id, "process", name))
	err = standIn.begin(ctx)
	c.execs.Add(1)
	s.setExec(c, pid, true)
	s.background.Go(func() {
		defer c.execs.Done()
		<-process.Done()
		standIn.close(process.Exit())
		s.setExec(c, pid, false)
	})
	if err == nil {
		err = s.lease(owner, process)
	}
	if err != nil {
		return joinKill(context.WithoutCancel(ctx), process, err)
	}
	return nil
}

// setExec notes the stand-in of a process that runs, or has ended.
func (s *server) setExec(c *container, pid int, running bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if running {
		c.execPIDs[pid] = struct{}{}
	} else {
		delete(c.execPIDs, pid)
	}
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
