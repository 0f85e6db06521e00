// Package hypervisor is the contract between the runtime and a virtual machine
// monitor (VMM): the VM interface, the closed set of devices, the typed errors.
// Drivers live in sub-packages and are chosen by the commands; the runtime's
// core sees this package alone. Package hypervisortest holds the conformance
// suite that every driver passes.
//
// A VM's life:
//
//	new ──Start──► running ◄──Resume── paused
//	 │                │ ──────Pause──────► │
//	 └──Stop──► ended ◄────────Stop, or the VMM's end
//
// Listen is legal before Start, so that a guest that dials early finds its
// peer. Stop is legal at any time, also after a failed Start, and may be
// repeated. A VM is not restarted.
package hypervisor
