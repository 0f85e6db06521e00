// Package container runs the pod's containers inside the guest through
// libcontainer, with the protections that the OCI runtime specification
// describes. It is the only package that knows libcontainer.
//
// A container is created (its first process waits before its program),
// started, and removed; a process is running until its Exit is known:
//
//	Create ──► created ──Start──► running ──exit──► stopped ──Remove──► gone
//	   └─fails──► gone (cgroup, mounts and streams undone)
//
// Remove may be called in every state. The host translated the specification
// for the guest (paths are guest paths) and is trusted; this package adds only
// what the guest alone can know, see guestSpec.
package container
