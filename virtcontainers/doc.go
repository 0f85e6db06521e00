// Package virtcontainers owns the life of a pod in a virtual machine: the
// Sandbox (the machine and its agent), its Containers and their Processes. It
// knows nothing of command lines, sockets or state files, which belong to the
// supervisor that drives it, and of no particular VMM: the Machine comes from
// outside.
//
// A sandbox:
//
//	new ──Start──► ready ──Stop, or the machine's end──► stopped
//
// A container, with who triggers each arrow:
//
//	creating ──CreateContainer──► created ──Start──► running
//	    │                            │                  │  init exits, Kill,
//	    └────── failure ─────────────┴──────────────────┴─ the machine's end ──► stopped ──Delete──► gone
//
// A running container can be paused, and resumed: its processes are frozen in
// the guest.
//
// A sandbox stops its machine as soon as no container is left that could run:
// an idle VM holds memory and does nothing for anyone.
package virtcontainers
