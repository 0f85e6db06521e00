// Package network owns the host's side of a VM's interfaces. So far that is the
// spare one: a tap that is plugged into the VM from the start, because a root
// bus takes no hot-plug and hot-plug costs time, and that is tied to whatever
// interface the pod turns out to have. Until then it lives in a network
// namespace of its own, where nobody sees it.
package network
