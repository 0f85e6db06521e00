// Package network owns the guest's interfaces: so far only that the spare one
// stays out of sight until the pod turns out to have a network.
package network
