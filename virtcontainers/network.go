package virtcontainers

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/network"
)

// NetworkOptions say how the machine is connected with its pod's network.
type NetworkOptions struct {
	Model  network.Model
	Queues int  // of a NIC that is plugged in later
	Vhost  bool // the host's kernel works the queues, if it can
	// Spare are the taps of the NICs that the machine has from the start.
	Spare []*network.Tap
	// Keep are the permanent addresses of NICs that are needed from the start.
	Keep [][]byte
	// Fixed is what the guest has instead of a namespace's network; nil: none.
	Fixed *protocol.SetNetworkRequest
}

// JoinNetwork puts the machine on the network of a namespace, which it takes
// over: what the namespace has is connected, and appears in the guest with the
// first container. The host's own namespace is refused: everything that reaches the
// host would go into the machine. It may be called after Assign, while the machine boots, and once. When the
// namespace changes later, changed is called before the guest is told: it may
// call SetLoopbackServices.
func (s *Sandbox) JoinNetwork(pods *network.Namespace, changed func()) error {
	done := s.watch.begin(StageNetwork)
	defer done()
	return s.networkFailure(s.joinNetwork(pods, changed))
}

// networkFailure puts the machine's own end, such as a boot that has failed,
// before the error that it caused.
func (s *Sandbox) networkFailure(err error) error {
	switch {
	case err == nil:
		return nil
	case s.life.Err() != nil:
		return s.callFailure(StagePrepare, err)
	default:
		return &StageError{Stage: StageNetwork, Err: err}
	}
}

func (s *Sandbox) joinNetwork(pods *network.Namespace, changed func()) error {
	if err := namespace.RefuseHost(specs.NetworkNamespace, pods.File()); err != nil {
		return errors.Join(err, pods.Close())
	}
	assignment, err := s.assignedTo()
	if err != nil {
		return errors.Join(err, pods.Close())
	}
	options := assignment.Network
	joined, err := network.Join(pods, network.Options{
		Machine: s.options.Machine, Model: options.Model, Queues: options.Queues, Vhost: options.Vhost, Spare: options.Spare,
		Tell: s.setNetwork, Services: s.toldServices, Changed: changed, Log: s.log,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.network != nil || s.life.Err() != nil {
		s.mu.Unlock()
		return errors.Join(errors.New("the machine has a network already, or has ended"), joined.Close())
	}
	s.network = joined
	s.mu.Unlock()
	return joined.Prepare()
}

// setNetwork tells the agent.
func (s *Sandbox) setNetwork(ctx context.Context, request *protocol.SetNetworkRequest) error {
	ctx, cancel := s.call(ctx)
	defer cancel()
	if _, err := s.agent.SetNetwork(ctx, request); err != nil {
		if s.life.Err() != nil {
			err = context.Cause(s.life) //nolint:contextcheck // the machine's end is the reason
		}
		return fmt.Errorf("set the network in the guest: %w", agentErr(err))
	}
	return nil
}

// syncNetwork makes the guest's network what the namespace has now; from the
// first time on it follows changes. The machine must be ready.
func (s *Sandbox) syncNetwork(ctx context.Context) error {
	s.mu.Lock()
	joined, fixed := s.network, s.assignment.Network.Fixed
	s.mu.Unlock()
	if fixed != nil {
		return s.fixNetwork(ctx)
	}
	if joined == nil {
		return nil
	}
	done := s.watch.begin(StageNetwork)
	defer done()
	if err := joined.Sync(ctx); err != nil {
		return s.networkFailure(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.following && s.life.Err() == nil {
		s.following = true
		s.background.Go(func() { joined.Follow(s.life) })
	}
	return nil
}

// fixNetwork tells the agent of a network that never changes, but for its
// loopback services.
func (s *Sandbox) fixNetwork(ctx context.Context) error {
	request := proto.CloneOf(s.assignment.Network.Fixed)
	request.LoopbackServices = s.toldServices()
	s.fixing.Lock()
	defer s.fixing.Unlock()
	if proto.Equal(request, s.fixed) {
		return nil
	}
	if err := s.setNetwork(ctx, request); err != nil {
		return s.networkFailure(err)
	}
	s.fixed = request
	return nil
}

// leaveNetwork leaves the namespace as it was found. The machine has stopped.
func (s *Sandbox) leaveNetwork() error {
	s.mu.Lock()
	joined := s.network
	s.mu.Unlock()
	var errs []error
	if joined != nil {
		errs = append(errs, joined.Close())
	}
	if assignment, err := s.assignedTo(); err == nil {
		for _, tap := range assignment.Network.Spare {
			errs = append(errs, tap.Close())
		}
	}
	return errors.Join(errs...)
}
