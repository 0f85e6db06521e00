// Package pod owns one pod on the host: a sandbox with its containers, which are
// made, joined, and removed, and the machine that ends when none of them can run
// any more. It is what the front ends share. It knows neither who asks (a
// command, containerd), nor stand-ins, state files or an RPC: who takes a
// process's streams and is told of its end is an Attachment, and what a front end
// keeps of a container is a Keeper. It takes values: a namespace as an open
// file, never a pid or a path that somebody else may change.
//
// A pod begins with New and ends with Stop, once Done is closed: when its last
// container was removed, or nobody is left who could make its first.
//
// A container, with what triggers each arrow; every other one is refused:
//
//	Reserve ─► reserving ─Claim─► reserved ─Create─► creating ─► live ─first process ends─► ended
//	              │                  │                  │                                     │
//	              │ Claim fails,     │ Remove,          │ failure,                     Remove │
//	              │ Remove, forced   │ forced           │ Remove, forced                      │
//	              └──────────────────┴────────┬─────────┴─────────────────────────────────────┘
//	                                          ▼
//	                                       leaving ─Release─► gone
//
// Remove, forced, ends what is live first.
//
// The statuses of a live container (created, running, paused) are the sandbox's
// to know: virtcontainers.Container.Status.
package pod
