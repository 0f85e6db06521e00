package virtcontainers

import (
	"context"
	"errors"
	"fmt"

	"kata-runtime/guest/protocol"
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
// first container. It may be called while the machine boots, and once.
func (s *Sandbox) JoinNetwork(namespace *network.Namespace) error {
	done := s.watch.begin(StageNetwork)
	defer done()
	err := s.joinNetwork(namespace)
	if err != nil {
		return &StageError{Stage: StageNetwork, Err: err}
	}
	return nil
}

func (s *Sandbox) joinNetwork(namespace *network.Namespace) error {
	options := s.options.Network
	joined, err := network.Join(namespace, network.Options{
		Machine: s.options.Machine, Model: options.Model, Queues: options.Queues, Vhost: options.Vhost, Spare: options.Spare,
		Tell: s.setNetwork, Log: s.log,
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
			err = context.Cause(s.life)
		}
		return fmt.Errorf("set the network in the guest: %w", plain(err))
	}
	return nil
}

// syncNetwork makes the guest's network what the namespace has now; from the
// first time on it follows changes. The machine must be ready.
func (s *Sandbox) syncNetwork(ctx context.Context) error {
	s.mu.Lock()
	joined, fixed := s.network, s.options.Network.Fixed
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
		return &StageError{Stage: StageNetwork, Err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.following && s.life.Err() == nil {
		s.following = true
		s.background.Go(func() { joined.Follow(s.life) })
	}
	return nil
}

// fixNetwork tells the agent once what never changes.
func (s *Sandbox) fixNetwork(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.following {
		return nil
	}
	if err := s.setNetwork(ctx, s.options.Network.Fixed); err != nil {
		return &StageError{Stage: StageNetwork, Err: err}
	}
	s.following = true
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
	for _, tap := range s.options.Network.Spare {
		errs = append(errs, tap.Close())
	}
	return errors.Join(errs...)
}
