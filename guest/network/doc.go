// Package network owns the guest's interfaces: it makes of each NIC that the
// host plugs the interface of the pod's namespace that is behind it, sets the
// addresses, routes, neighbours and rules of that namespace, and keeps NICs that
// nothing is behind out of sight.
package network
