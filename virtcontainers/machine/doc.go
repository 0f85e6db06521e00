// Package machine builds a pod's machine from the configuration: the VM with its
// accelerator, the host's end of its vsock, the daemon that serves its share,
// passt for a pod on the host's network, and the guest's console. It is the only
// place of virtcontainers that names drivers; what it builds is a hypervisor.VM
// with helpers, which the core sees as its Machine. Check tells whether a host has
// what that takes.
package machine
