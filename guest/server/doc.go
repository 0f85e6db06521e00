// Package server is the agent: it serves protocol.AgentService to the host,
// takes the connections of standard streams, and tells the host when it is
// ready.
//
// The host is CID 2, and nobody else is served: the guest's vsock is not in any
// namespace, so that containers can open vsock sockets too. Listeners are
// injected, which lets the whole agent run on any machine over unix sockets.
package server
