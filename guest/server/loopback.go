package server

import "kata-runtime/guest/protocol"

// setLoopback serves the servers on loopback of the host's side that a request
// of SetNetwork lists, in the guest, and ends serving others. It comes after the
// interfaces: their addresses must not wait for a port that a container has.
func (s *sandbox) setLoopback(req *protocol.SetNetworkRequest) error {
	return s.loopback.Set(req.GetLoopbackServices())
}
