package supervisor

import (
	"context"
	"errors"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/supervisor/api"
)

// errCommandGone says that the command that asked for something cannot take it.
var errCommandGone = errors.New("the command has gone away")

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
	standIn := newStandIn(conn, s.log.With("container", id, "process", name))
	process, err := s.startExec(ctx, request, standIn)
	if err != nil {
		if !standIn.begun {
			conn.Close() // otherwise the process's end closes it
		}
		return err
	}
	if err := s.lease(owner, process); err != nil {
		return errors.Join(err, process.Kill(context.WithoutCancel(ctx)))
	}
	return nil
}

func (s *server) startExec(ctx context.Context, request *api.ExecProcessRequest, standIn *standIn) (*pod.Exec, error) {
	c, err := s.pod.Container(request.GetContainerId())
	if err != nil {
		return nil, err
	}
	r := s.record(c.ID())
	if r == nil { // it is being removed
		return nil, virtcontainers.ErrNotRunning
	}
	pid := int(request.GetStandInPid())
	process, err := c.Exec(ctx, pod.ExecRequest{
		ExecOptions: virtcontainers.ExecOptions{
			ID: request.GetProcessId(), Process: request.GetProcessJson(),
			IO:     virtcontainers.IO{Stdin: request.GetStdin(), Stdout: request.GetStdout(), Stderr: request.GetStderr()},
			Cgroup: request.GetCgroup(),
		},
		Attachment: standIn,
		Prepare: func(context.Context) error {
			return placeStandIn(r.group, pid, request.GetStandInStartTime(), r.group.Add)
		},
		AwaitThaw: request.GetIgnorePaused(),
	})
	if err != nil {
		return nil, err
	}
	s.noteExec(r, pid, process)
	return process, nil
}

// noteExec keeps the pid of a process's stand-in until the process is finished.
func (s *server) noteExec(r *record, pid int, process *pod.Exec) {
	s.mu.Lock()
	r.execs[pid] = struct{}{}
	s.mu.Unlock()
	s.background.Go(func() {
		<-process.Finished()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(r.execs, pid)
	})
}

// lease ties a process to the command that asked for it, unless that is gone
// already.
func (s *server) lease(owner *commandChannel, process *pod.Exec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, connected := s.channels[owner.token]; !connected {
		return errCommandGone
	}
	owner.execs = append(owner.execs, process)
	return nil
}
