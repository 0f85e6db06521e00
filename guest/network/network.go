package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
)

// Network is the pod's network in the guest. Make it with New; its methods may
// be called from any goroutine.
type Network struct {
	log *slog.Logger
	nics

	mu sync.Mutex // held while the network changes; guards what follows
	// brought is what the host may have brought so far: what a later request
	// lacks of it goes.
	brought *protocol.SetNetworkRequest
}

// New returns a network in which the host has set nothing yet.
func New(log *slog.Logger) *Network {
	return &Network{log: log, nics: nics{driver: virtioNet, find: byPermanentAddress}, brought: &protocol.SetNetworkRequest{}}
}

// Set makes the network what the request says. It waits for NICs that have not
// appeared yet, until ctx ends. An error wraps ErrInvalid, or names the interface
// or route and what the kernel refused; what could be done is done then, and
// another call completes it.
func (n *Network) Set(ctx context.Context, request *protocol.SetNetworkRequest) error {
	if err := validate(request); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.brought
	n.brought = union(before, request) // until all has succeeded
	if err := n.remove(before, request); err != nil {
		return err
	}
	links, err := n.setLinks(ctx, request)
	if err != nil {
		return err
	}
	errs := []error{n.setAddresses(links, request)}
	errs = append(errs, n.setRoutes(links, request), n.setNeighbours(links, request), n.setRules(before, request))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	n.brought = proto.CloneOf(request)
	return nil
}

// union is what may be there between two states.
func union(a, b *protocol.SetNetworkRequest) *protocol.SetNetworkRequest {
	return &protocol.SetNetworkRequest{
		Interfaces: append(a.GetInterfaces()[:len(a.GetInterfaces()):len(a.GetInterfaces())], b.GetInterfaces()...),
		Routes:     append(a.GetRoutes()[:len(a.GetRoutes()):len(a.GetRoutes())], b.GetRoutes()...),
		Neighbours: append(a.GetNeighbours()[:len(a.GetNeighbours()):len(a.GetNeighbours())], b.GetNeighbours()...),
		Rules:      append(a.GetRules()[:len(a.GetRules()):len(a.GetRules())], b.GetRules()...),
	}
}

// missing returns what a has and b lacks.
func missing[M proto.Message](a, b []M) []M {
	var result []M
	for _, x := range a {
		found := false
		for _, y := range b {
			if proto.Equal(x, y) {
				found = true
				break
			}
		}
		if !found {
			result = append(result, x)
		}
	}
	return result
}

func wrap(name, what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("interface %s: %s: %w", name, what, err)
}
