// Package loopback carries connections between loopback of the guest and
// loopback of the pod's network namespace on the host, which callers take for
// the pod's.
//
// Services are servers of the host's side, such as docker's DNS: the agent
// listens on their addresses in the guest, and the host connects to them for
// each client. Forward takes connections that were made to loopback on the
// host's side, such as those of kubectl port-forward, for servers in the guest.
// The host's half is virtcontainers/loopback; what passes between them is
// guest/protocol/relay.
package loopback
