package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/network"
	"kata-runtime/guest/protocol"
)

// Network is the pod's network in the guest, as *network.Network is.
type Network interface {
	// Park hides every NIC but those with the permanent addresses.
	Park(keep [][]byte) error
	// AwaitPlugged waits for NICs with these permanent addresses.
	AwaitPlugged(ctx context.Context, addresses [][]byte) error
	// Set makes the network what the request says.
	Set(ctx context.Context, request *protocol.SetNetworkRequest) error
}

// nicTimeout bounds the wait for a NIC, or another device, that the host says it has
// plugged in.
const nicTimeout = 20 * time.Second

// awaitPlugged waits for NICs that were plugged in before the pod was known.
func (s *sandbox) awaitPlugged(ctx context.Context, addresses [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, nicTimeout)
	defer cancel()
	return s.network.AwaitPlugged(ctx, addresses)
}

// SetNetwork makes the pod's network what the request says.
func (s *sandbox) SetNetwork(ctx context.Context, req *protocol.SetNetworkRequest) (*protocol.Empty, error) {
	ctx, cancel := context.WithTimeout(ctx, nicTimeout)
	defer cancel()
	err := s.network.Set(ctx, req)
	if errors.Is(err, network.ErrInvalid) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &protocol.Empty{}, errors.Join(err, s.setLoopback(req))
}
