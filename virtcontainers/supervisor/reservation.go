package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor/api"
)

// ReserveContainer implements api.SupervisorService.
func (s *server) ReserveContainer(ctx context.Context, request *api.ReserveContainerRequest) (*api.Empty, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c, err := s.reserve(ctx, request, cancel)
	if err != nil {
		return nil, asStatus(err)
	}
	if err := s.rest(ctx, c); err != nil {
		return nil, asStatus(errors.Join(err, s.undo(ctx, c)))
	}
	return &api.Empty{}, nil
}

// rest ends the work on a reservation: from now on nobody can cancel it, but
// whoever deletes the container undoes it.
func (s *server) rest(ctx context.Context, c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.cancel = nil
	return nil
}

// beginCreation takes up a command's reservation, or reserves now what it has
// not reserved.
func (s *server) beginCreation(ctx context.Context, request *api.CreateContainerRequest, cancel context.CancelCauseFunc) (*container, error) {
	id, token := request.GetContainerId(), request.GetChannel()
	if len(request.GetStateJson()) > 0 {
		return s.reserve(ctx, &api.ReserveContainerRequest{
			ContainerId: id, Channel: token, StateJson: request.GetStateJson(), ConfigJson: request.GetConfigJson(),
		}, cancel)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok || c.owner == nil || c.owner.token != token || !c.isReserved() || c.leaving {
		return nil, errDeleted
	}
	c.cancel = cancel
	return c, nil
}

// reserve claims the container's state directory and its stand-in, puts it
// under the command's lease, and records it. cancel ends the work on it.
func (s *server) reserve(ctx context.Context, request *api.ReserveContainerRequest, cancel context.CancelCauseFunc) (*container, error) {
	c, err := s.claimID(request.GetChannel(), request.GetContainerId(), cancel)
	if err != nil {
		return nil, err
	}
	if err := s.record(c, request); err != nil {
		return nil, errors.Join(err, s.undo(ctx, c))
	}
	return c, nil
}

// claimID makes a container of the command's stand-in. The pod's own state
// directory was reserved when the pod began.
func (s *server) claimID(token, id string, cancel context.CancelCauseFunc) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, ok := s.channels[token]
	if !ok {
		return nil, errNoChannel
	}
	key := processKey{container: id}
	standIn, ok := owner.standIns[key]
	if !ok {
		return nil, errNoStandIn
	}
	if s.ending {
		return nil, errors.New("the pod is ending")
	}
	c, known := s.containers[id]
	switch {
	case known && c.id != "":
		return nil, fmt.Errorf("container %q: %w", id, virtcontainers.ErrExists)
	case !known:
		entry, err := s.store.Reserve(id)
		if err != nil {
			return nil, err
		}
		c = newContainer(entry)
		s.containers[id] = c
	}
	delete(owner.standIns, key)
	c.id, c.owner, c.channel, c.cancel = id, owner, standIn, cancel
	owner.created = append(owner.created, id)
	return c, nil
}

// record writes down what the container is, and moves its stand-in to where it
// belongs.
func (s *server) record(c *container, request *api.ReserveContainerRequest) (err error) {
	var state store.State
	if err := json.Unmarshal(request.GetStateJson(), &state); err != nil {
		return fmt.Errorf("decode the container's state: %w", err)
	}
	if c.hookState, err = stateForHooks(state); err != nil {
		return err
	}
	c.mu.Lock()
	c.state = state
	c.mu.Unlock()
	if err := s.saveInitial(c, request.GetConfigJson()); err != nil {
		return err
	}
	return s.place(c)
}

// place moves the container's stand-in into the control group that callers look
// for it in. That of the pod's first container is the pod's own.
func (s *server) place(c *container) (err error) {
	c.mu.Lock()
	record, pid, start := c.state.Cgroup, c.state.StandInPID, c.state.StandInStartTime
	c.mu.Unlock()
	group, err := record.Open()
	if err != nil {
		return err
	}
	c.group = group
	move := group.Create
	if c.id == s.id {
		move = group.Add
	}
	return placeStandIn(group, pid, start, move)
}

// errStandInGone says that a pid is not the stand-in's any more, which may be
// anybody's.
var errStandInGone = errors.New("the stand-in has ended: another process may have its pid")

// placeStandIn moves a stand-in into a control group, if there is one, and nobody
// who has its pid later. Between two looks that find it alive, the pid was its own.
func placeStandIn(group *cgroup.Group, pid int, start uint64, move func(pid int) error) error {
	if group == nil {
		return nil
	}
	if !store.Alive(pid, start) {
		return fmt.Errorf("move process %d into the control group: %w", pid, errStandInGone)
	}
	if err := move(pid); err != nil {
		return err
	}
	if !store.Alive(pid, start) {
		return fmt.Errorf("move process %d into the control group: %w", pid, errStandInGone)
	}
	return nil
}

// isReserved tells whether the container's creation has not begun. The caller
// holds the server's mu.
func (c *container) isReserved() bool { return c.id != "" && c.core == nil && c.cancel == nil }

// leases tells whether a container is under a channel's lease.
func (s *server) leases(token, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	return ok && c.owner != nil && c.owner.token == token
}

// undo takes back what reserve did, for a container that does not come to be.
func (s *server) undo(ctx context.Context, c *container) error {
	ctx = context.WithoutCancel(ctx)
	c.channel.Close() // the stand-in ends, and leaves its control group
	err := s.forget(ctx, c)
	close(c.gone)
	s.stopIfIdle(ctx)
	s.endIfUnused()
	return err
}
