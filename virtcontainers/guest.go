package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"kata-runtime/guest/protocol"
)

// ErrNoGuestExec says that the configuration does not let processes be added to
// the guest itself.
var ErrNoGuestExec = errors.New("the pod's configuration does not permit processes in the guest itself")

// Measurements are what the guest says of itself, and of the containers that it
// was asked for, by their ids. Nothing of it was checked.
type Measurements struct {
	Guest      []*protocol.Measurement
	Containers map[string][]*protocol.Measurement
}

// Measure asks the guest for its figures. It does not wait for a guest that is not
// ready, and not longer than ctx for one that is.
func (s *Sandbox) Measure(ctx context.Context) (Measurements, error) {
	if err := s.readyNow(); err != nil {
		return Measurements{}, err
	}
	s.mu.Lock()
	ids := slices.Collect(maps.Keys(s.containers))
	s.mu.Unlock()
	ctx, cancel := s.call(ctx)
	defer cancel()
	response, err := s.agent.Metrics(ctx, &protocol.MetricsRequest{ContainerIds: ids})
	if err != nil {
		return Measurements{}, fmt.Errorf("measure the guest: %w", agentErr(err))
	}
	m := Measurements{Guest: response.GetGuest(), Containers: make(map[string][]*protocol.Measurement)}
	for i, measured := range response.GetContainers() {
		if i < len(ids) {
			m.Containers[ids[i]] = measured.GetMeasurements()
		}
	}
	return m, nil
}

// readyNow is Ready for who does not wait.
func (s *Sandbox) readyNow() error {
	select {
	case <-s.ready:
		if s.readyErr == nil {
			return context.Cause(s.life)
		}
		return s.readyErr
	default:
		return fmt.Errorf("%w: the guest is not set up yet", ErrState)
	}
}

// ExecGuest starts a process in the guest itself, in no container. It wraps
// ErrNoGuestExec unless the assignment permits it. Otherwise it is like
// Container.Exec.
func (s *Sandbox) ExecGuest(ctx context.Context, options ExecOptions) (*Process, error) {
	if err := s.Ready(ctx); err != nil {
		return nil, err
	}
	if !s.assignment.AllowGuestExec {
		return nil, ErrNoGuestExec
	}
	return s.exec(ctx, "", options)
}

// Helpers are the machine's processes beside its VMM, by their names.
func (s *Sandbox) Helpers() map[string]int { return s.options.Machine.Helpers() }

// Streams is how many connections there were for standard streams of processes.
func (s *Sandbox) Streams() uint64 { return s.streams.Load() }

// Made is when the sandbox was made, from which Timings count.
func (s *Sandbox) Made() time.Time { return s.watch.origin }
