// Package holder owns the namespace holder: a small host process that is in the
// namespaces which a container's specification asks for, and does nothing. Its
// pid is what a front end without stand-ins (package standin) reports as the
// container's.
//
// Callers follow it into /proc/PID/ns. containerd's CRI writes the sandbox's net,
// ipc, uts and pid namespaces into the specifications of the pod's containers; docker
// sets up the network of a container there. Package namespace finds the container
// that such a path means (namespace.Owner).
//
// Its mount namespace holds an empty read-only file system. The root file system
// of the container need not be there, as it is in a stand-in: a task API's caller
// has mounted that itself, and takes files from its own mount. But whoever does go
// through /proc/PID/root must find nothing, rather than the host.
//
// It ignores all signals that can be ignored: they are for the container, whose
// front end forwards them. It ends when the process that started it does, or calls
// Stop. About 1.4 MiB of memory are its own, 0.6 of that Go's runtime and the rest
// what the packages of its program make at their start; it is there 3 ms after
// Start.
//
// # Which pid a task has
//
// What callers do with the pid of a task or an exec, in the sources of containerd
// 2.4.2, docker 28.0.4 and docker 20.10:
//
//   - containerd keys nothing by pid: tasks, events and metrics go by the ids of
//     task and exec (core/runtime/nsmap.go, internal/cri/server/events.go), Stats by
//     the task API (core/metrics/cgroups/v2/metrics.go), never by /proc/PID/cgroup.
//     Several tasks may have the same pid.
//   - The CRI joins /proc/<sandbox's pid>/ns/{net,ipc,uts,pid,user}, and for a
//     container that targets another one (kubectl debug --target) /proc/<the
//     target's pid>/ns/pid (internal/cri/server/container_create.go, targetPid;
//     internal/cri/opts/spec_opts.go, WithPodNamespaces). If all tasks had the
//     sandbox's pid, such a container would silently get the processes of the
//     sandbox in the place of the target's.
//   - docker 26 and later opens /proc/<pid>/ns/net at a container's start
//     (daemon/start_linux.go), and the target's namespaces for --network, --ipc and
//     --pid container:NAME (daemon/oci_linux.go).
//   - docker up to 20.10 takes an exit event whose pid is the container's for the
//     container's exit (daemon/monitor.go: int(ei.Pid) == c.Pid). An exec must not
//     have the pid of its container. Nobody opens /proc/<an exec's pid>.
//   - docker top, and nerdctl's, select lines of the host's ps by what Pids answers
//     (daemon/top_unix.go): the guest's own numbers show unrelated processes of the
//     host.
//   - A containerd that is restarted deletes the task of a shim whose Pids answers
//     with an empty list (core/runtime/v2/shim_load.go, shouldCleanupShim): it must
//     never be empty for a task that lives.
//
// So: a sandbox has a holder, and its pid. A container with a PID namespace of its
// own has another holder, in the sandbox's other namespaces (Needed); all others
// have the sandbox's pid. An exec, and a process in the answer of Pids that is no
// container's first, has GuestPID, which nobody finds on the host.
package holder
