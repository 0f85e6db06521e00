package virtcontainers

import (
	"fmt"
	"net"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/loopback"
	"kata-runtime/virtcontainers/namespace"
)

// StartLoopback begins to carry connections between loopback of the pod's
// network namespace on the host and loopback of the guest: those that are made
// to localhost in the namespace, and those of the guest to services. The agent is
// told of services by SetNetwork, afterwards; what it needs besides it was told at
// its start. The namespace stays the caller's, who may close it; hosts tells that
// it is the host's, of which only services are carried: without hosts, that
// namespace is refused. Stop ends it. Once only.
func (s *Sandbox) StartLoopback(pods *os.File, services []loopback.Service, hosts bool) error {
	return s.networkFailure(s.startLoopback(pods, services, hosts))
}

func (s *Sandbox) startLoopback(pods *os.File, services []loopback.Service, hosts bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.noLoopback:
		return fmt.Errorf("relay loopback: %w", ErrMachineEnded)
	case s.loopback != nil:
		return fmt.Errorf("relay loopback: %w: it was begun before", ErrState)
	}
	if !hosts {
		if err := namespace.RefuseHost(specs.NetworkNamespace, pods); err != nil {
			return fmt.Errorf("relay loopback: %w", err)
		}
	}
	relay, err := loopback.New(loopback.Options{
		Namespace: pods,
		Dial:      s.options.Machine.Dial,
		Token:     s.loopbackToken,
		Services:  services, OutboundOnly: hosts,
		Log: s.log,
	})
	if err != nil {
		return fmt.Errorf("relay loopback: %w", err)
	}
	s.loopback, s.loopbackServices = relay, services // Stop closes it
	listener, err := s.listenLoopback()
	if err != nil {
		return err
	}
	s.background.Go(func() {
		// The machine's end ends its listeners.
		if err := relay.Serve(listener); err != nil && s.life.Err() == nil {
			s.log.Error("loopback of the host is relayed no more", "error", err)
		}
	})
	return nil
}

// listenLoopback listens for the guest's connections to loopback of the host: the
// agent is told of the port at its start, whether or not they are served yet. The
// caller holds mu.
func (s *Sandbox) listenLoopback() (net.Listener, error) {
	if s.loopbackListener == nil {
		listener, err := s.options.Machine.Listen(protocol.LoopbackPort)
		if err != nil {
			return nil, fmt.Errorf("relay loopback: %w", err)
		}
		s.loopbackListener = listener // the machine's end closes it
	}
	return s.loopbackListener, nil
}

// SetLoopbackServices changes the services of StartLoopback, for a container that
// comes later and brings some. The agent is to be told of them by SetNetwork,
// afterwards.
func (s *Sandbox) SetLoopbackServices(services []loopback.Service) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loopback == nil {
		return fmt.Errorf("set loopback services: %w: loopback is not relayed", ErrState)
	}
	if err := s.loopback.SetServices(services); err != nil {
		return err
	}
	s.loopbackServices = services
	return nil
}

// toldServices are the services as the agent is told of them.
func (s *Sandbox) toldServices() []*protocol.LoopbackService {
	s.mu.Lock()
	defer s.mu.Unlock()
	return loopback.Protocol(s.loopbackServices)
}

// stopLoopback ends the relaying for good.
func (s *Sandbox) stopLoopback() error {
	s.mu.Lock()
	s.noLoopback = true
	relay := s.loopback
	s.mu.Unlock()
	if relay == nil {
		return nil
	}
	return relay.Close()
}
