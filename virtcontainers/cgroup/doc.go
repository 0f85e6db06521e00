// Package cgroup owns the control groups of the host in which a pod's processes
// live: those of linux.cgroupsPath, where container managers look for a
// container's process and for what it uses. The limits of the containers
// themselves are set in the guest.
//
// A command resolves where the group belongs (Resolve), since a relative path
// counts from the command's own group; the pod's supervisor makes it, adds the
// processes and removes it. What was resolved is kept in the state of the
// container, so that a later command can remove the group of a supervisor that
// was killed.
//
// The work is done by github.com/opencontainers/cgroups, for version 1 and 2,
// with and without systemd. Where a process is just being forked it tries again
// after some milliseconds: the kernel has no event for that.
package cgroup
