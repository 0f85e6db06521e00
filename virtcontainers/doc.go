// Package virtcontainers owns the life of a pod in a virtual machine: the
// Sandbox (the machine and its agent), its Containers and their Processes. It
// knows nothing of command lines, sockets or state files, which belong to the
// supervisor that drives it, and of no particular VMM: the Machine comes from
// outside.
//
// A sandbox boots without knowing whose it will be, and is given to a pod before,
// while or after it does so. What the pod brings reaches the guest in one call of
// the agent, as soon as both are there; a cold start is Assign right after Boot:
//
//	new ──Boot──► booting ──the agent answers──► booted ─┐
//	new ──Assign─────────────────────────────────────────┴─CreateSandbox──► ready
//	any ──Stop, a failure, or the machine's end──► stopped
//
// Before Assign the guest knows nothing of the pod, and the kernel's command line
// holds nothing of it. What still depends on the pod then, because the machine is
// built with it:
//   - the VM's name in the host's list of processes, which package machine makes of
//     the pod's id: for whoever looks for a pod's VMM. The guest does not see it;
//   - the share: its device is there from the start, since virtiofsd and 9p are
//     given their directory when they start. It is empty until a container comes,
//     and its path holds the pod's id;
//   - the NICs of the pod's interfaces, whose number is known early, and passt's with
//     the host's addresses: plugging one in costs time. Their device ids are
//     numbers, and their MAC addresses are drawn at random;
//   - the first size of the VM, from the pod's annotations or its first container;
//   - the token of the ready message, on the kernel's command line: it is the
//     machine's, and copies of one machine would have it in common.
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
// A sandbox goes on without containers: whoever drives it stops it once none is
// left that could run.
package virtcontainers
