package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
)

// Model is how an interface is connected to the VM.
type Model string

// The models.
const (
	// ModelTC is a tap, and traffic control that sends what either of the two
	// receives out of the other. It suits every kind of interface.
	ModelTC Model = "tcfilter"
	// ModelMacvtap is a macvtap interface in passthru mode.
	ModelMacvtap Model = "macvtap"
)

// Machine plugs NICs into a running VM, as hypervisor.VM does.
type Machine interface {
	Attach(ctx context.Context, device hypervisor.Device) error
	Detach(ctx context.Context, id string) error
}

// Options are what Join needs.
type Options struct {
	Machine Machine
	Model   Model // ModelTC or ModelMacvtap
	// Queues is how many queue pairs a NIC gets that is plugged in later, and
	// Vhost whether the host's kernel works them, if it can.
	Queues int
	Vhost  bool
	// Spare are taps whose NICs the VM has from the start.
	Spare []*Tap
	// Tell makes the guest have what the request says.
	Tell func(ctx context.Context, request *protocol.SetNetworkRequest) error
	// Services are the loopback services that the guest is told of too; nil: none.
	Services func() []*protocol.LoopbackService
	// Changed is called when the namespace has changed, before the guest is told;
	// nil: not.
	Changed func()
	Log     *slog.Logger
}

// Network is a VM's connection with one namespace.
type Network struct {
	options   Options
	namespace *Namespace
	changes   *subscription

	mu        sync.Mutex // held while the connection changes; guards what follows
	endpoints map[int]*endpoint
	spare     []*Tap
	told      *protocol.SetNetworkRequest // what the guest has; nil: that is not known
	seen      *Snapshot                   // the last Sync's; nil: it saw none
	leftOut   []string                    // of these rules the log has told
	serial    int
	closed    bool
}

// Join makes the connection of a VM with a namespace, which it takes over, and
// begins to collect changes. Nothing is connected before Prepare or Sync.
func Join(namespace *Namespace, options Options) (*Network, error) {
	changes, err := namespace.subscribe()
	if err != nil {
		return nil, errors.Join(err, namespace.Close())
	}
	return &Network{
		options: options, namespace: namespace, changes: changes,
		endpoints: map[int]*endpoint{}, spare: slices.Clone(options.Spare), told: &protocol.SetNetworkRequest{},
	}, nil
}

// Prepare connects as many interfaces as there are spare NICs: that needs no
// running VM. An interface that cannot be connected is an error that names it.
func (n *Network) Prepare() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	snapshot, err := n.namespace.Scan(n.isOurs)
	if err != nil {
		return err
	}
	if err := errors.Join(snapshot.Unsupported...); err != nil {
		return err
	}
	if n.options.Model != ModelTC {
		return nil
	}
	for _, i := range snapshot.Interfaces {
		if n.endpoints[i.Index] == nil && len(n.spare) > 0 {
			if err := n.connect(context.Background(), i); err != nil {
				return err
			}
		}
	}
	return nil
}

// Sync makes the guest's network what the namespace has now. The VM must run
// and its agent answer. What can be done is done, also when it returns an error.
func (n *Network) Sync(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	snapshot, err := n.namespace.Scan(n.isOurs)
	n.seen = snapshot
	if err != nil {
		return err
	}
	for _, text := range snapshot.LeftOut {
		if !slices.Contains(n.leftOut, text) {
			n.options.Log.Warn("a route or rule of the network namespace is not in the guest", "what", text)
		}
	}
	n.leftOut = snapshot.LeftOut
	errs := slices.Clone(snapshot.Unsupported)
	gone := n.disconnectGone(snapshot)
	for _, i := range snapshot.Interfaces {
		if e := n.endpoints[i.Index]; e == nil {
			err = n.connect(ctx, i)
		} else {
			err = e.follow(n.namespace, i)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if request := n.request(snapshot); !proto.Equal(request, n.told) {
		if err := n.options.Tell(ctx, request); err != nil {
			n.told = nil // it may have a part of it
			errs = append(errs, err)
		} else {
			n.told = request
		}
	}
	for _, e := range gone { // the guest has let go of them
		if err := n.release(ctx, e); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// request is what the guest is to have: what is connected.
func (n *Network) request(s *Snapshot) *protocol.SetNetworkRequest {
	request := &protocol.SetNetworkRequest{Rules: s.Rules}
	if n.options.Services != nil {
		request.LoopbackServices = n.options.Services()
	}
	names := map[string]bool{"": true, "lo": true}
	if s.Loopback != nil {
		request.Interfaces = append(request.Interfaces, s.Loopback)
	}
	for _, i := range s.Interfaces {
		if e := n.endpoints[i.Index]; e != nil {
			guest := proto.CloneOf(i.Guest)
			guest.DeviceMac = e.tap.MAC
			request.Interfaces = append(request.Interfaces, guest)
			names[i.Guest.GetName()] = true
		}
	}
	for _, route := range s.Routes {
		if !slices.ContainsFunc(route.GetHops(), func(h *protocol.NetworkHop) bool { return !names[h.GetInterface()] }) {
			request.Routes = append(request.Routes, route)
		}
	}
	for _, neighbour := range s.Neighbours {
		if names[neighbour.GetInterface()] {
			request.Neighbours = append(request.Neighbours, neighbour)
		}
	}
	return request
}

// isOurs tells whether the interface with this index was made by the runtime.
// The caller holds mu.
func (n *Network) isOurs(index int) bool {
	for _, e := range n.endpoints {
		if e.ours == index {
			return true
		}
	}
	return false
}

// Close leaves the namespace as it was found. The VM must not run any more.
// Idempotent.
func (n *Network) Close() error {
	n.changes.close()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	var errs []error
	for _, e := range n.endpoints {
		errs = append(errs, e.disconnect(n.namespace))
		if !e.spare {
			errs = append(errs, e.tap.Close())
		}
	}
	n.endpoints = map[int]*endpoint{}
	return errors.Join(append(errs, n.namespace.Close())...)
}

// disconnectGone takes down the host's side of the interfaces that the
// namespace has no more. The caller holds mu.
func (n *Network) disconnectGone(s *Snapshot) []*endpoint {
	var gone []*endpoint
	for index, e := range n.endpoints {
		if slices.ContainsFunc(s.Interfaces, func(i Interface) bool { return i.Index == index }) {
			continue
		}
		if err := e.disconnect(n.namespace); err != nil {
			n.options.Log.Warn("disconnect an interface that has gone", "interface", e.name, "error", err)
		}
		delete(n.endpoints, index)
		gone = append(gone, e)
	}
	slices.SortFunc(gone, func(a, b *endpoint) int { return cmp.Compare(a.name, b.name) })
	return gone
}

// release gives the NIC of a disconnected interface back. The caller holds mu.
func (n *Network) release(ctx context.Context, e *endpoint) error {
	if e.spare {
		if e.tap.pod == nil { // it could be taken back
			n.spare = append(n.spare, e.tap)
		}
		return nil
	}
	err := n.options.Machine.Detach(ctx, e.device)
	if err != nil {
		err = fmt.Errorf("interface %s: unplug its NIC: %w", e.name, err)
	}
	return errors.Join(err, e.tap.Close())
}
