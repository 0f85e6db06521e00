// Package network puts a VM on the network that its pod's namespace was given,
// as if the VM were the pod. It owns the host's side: it reads what a namespace
// has (Scan), ties each of its interfaces to a NIC of the VM (by a tap and
// traffic control redirection both ways, or by macvtap), tells the agent what
// the guest is to have, and follows later changes.
//
// The interfaces keep their names, addresses and routes in the namespace; only
// what they receive goes to the VM instead of the host's kernel. What is added to the
// namespace goes when the supervisor ends, however it ends, but for queueing
// disciplines with their filters, and macvtap interfaces: Restore removes these.
package network
