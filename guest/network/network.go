package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"kata-runtime/guest/protocol"
)

// Network is the pod's network in the guest. Make it with New; its methods may
// be called from any goroutine.
type Network struct {
	log *slog.Logger
	nics

	mu sync.Mutex // held while the network changes; guards what follows
	// brought is what the host has brought and nothing has taken away since.
	brought []*entry
	// prepared are the interfaces, by their indexes, that have been up: true for
	// those on which IPv6 was switched off, because the host's has none.
	prepared map[int]bool
}

// New returns a network in which the host has set nothing yet.
func New(log *slog.Logger) *Network {
	return &Network{log: log, nics: nics{driver: virtioNet, find: byPermanentAddress}, prepared: map[int]bool{}}
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
	links, err := n.setLinks(ctx, request)
	if links == nil {
		return err
	}
	wanted, entriesErr := n.entries(links, request)
	return errors.Join(err, entriesErr, n.reconcile(wanted), n.announce(links, request))
}

func wrap(name, what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("interface %s: %s: %w", name, what, err)
}
