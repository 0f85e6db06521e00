// Package shim is the front end for containerd: its task API, versions 2 and 3 on
// one socket, over a pod (package pod) that this process owns. One shim serves the
// containers of one pod; the first Create boots the machine.
//
// Or CreateSandbox does, of containerd's Sandbox API. Such a pod has no container of
// its own and ends with ShutdownSandbox, not with its last container:
//
//	CreateSandbox ─► booting ─StartSandbox─► ready ─StopSandbox, machine ends─► stopped
//	ShutdownSandbox, from any of them ─► gone, and the shim ends
//
// What a sandbox container would bring, the shim does (sandboxed): a plan of the pod,
// the files in /etc, /dev/shm, kernel parameters. Only where containers share what a
// process has to live in, their processes or a user namespace, a pause process
// runs in the guest (package pause).
//
// What containerd calls a task is a container of ours. Every task's pid is that
// of the pod's namespace holder, a process that does nothing but be in the pod's
// namespaces on the host: containerd and docker enter them by a pid. The processes
// of the guest have pids of the guest, which Pids lists.
//
// A task, with what triggers each arrow:
//
//	Create ─► created ─Start─► running ◄─Pause, Resume─► paused
//	             │                │                        │
//	             │ Kill           └──first process ends────┴─► stopped ─Delete─► gone
//	             └─ Kill, Delete ─────────────────────────────────▲
//
// Events are told in the order in which they happen: those of the first process's
// end last, after its output was taken, or lies in a fifo that nobody reads.
//
// The subpackages are leaves: bootstrap starts the process, stdio takes streams
// to where containerd wants them, events tells containerd, rootfs mounts what a
// snapshotter describes.
package shim
