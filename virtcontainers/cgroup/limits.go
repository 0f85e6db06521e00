package cgroup

import (
	"errors"
	"fmt"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// period is that of the CPU quota, in microseconds: the kernel's default.
const period = 100000

// Limits bound what the processes of a group use together. They are those of a
// whole pod with its VMM, never a container's as they stand.
type Limits struct {
	// MemoryBytes is the most memory; 0: what it was, -1: no limit.
	MemoryBytes int64
	// MilliCPUs is the most CPU time, in thousandths of a CPU; 0: what it was, -1: no
	// limit.
	MilliCPUs int64
	// Tasks is the most threads; 0: what it was, -1: no limit.
	Tasks int64
}

// After returns what changes the previous limits to these, of which 0 is none.
func (l Limits) After(previous Limits) Limits {
	if l.MemoryBytes == 0 && previous.MemoryBytes > 0 {
		l.MemoryBytes = -1
	}
	if l.MilliCPUs == 0 && previous.MilliCPUs > 0 {
		l.MilliCPUs = -1
	}
	if l.Tasks == 0 && previous.Tasks > 0 {
		l.Tasks = -1
	}
	return l
}

// Limit sets the group's limits. The group must have been made.
func (g *Group) Limit(limits Limits) error {
	if g == nil || limits == (Limits{}) {
		return nil
	}
	resources := &cgroups.Resources{
		// The supervisor opens devices of the host that no container is meant to
		// reach, and is in the group. A container's rules hold in the guest; what
		// talks to the guest finds no devices, see package jail.
		SkipDevices: true, SkipFreezeOnSet: true,
		Memory: limits.MemoryBytes,
	}
	if limits.Tasks != 0 {
		resources.PidsLimit = &limits.Tasks
	}
	switch {
	case limits.MilliCPUs > 0:
		resources.CpuPeriod, resources.CpuQuota = period, limits.MilliCPUs*period/1000
	case limits.MilliCPUs < 0:
		resources.CpuPeriod, resources.CpuQuota = period, -1
	}
	err := g.manager.Set(resources)
	if errors.Is(err, unix.EINVAL) && resources.CpuQuota > 0 && !cgroups.IsCgroup2UnifiedMode() {
		// A quota that is above that of a group above, as kubelet sets for the pod, is
		// refused by version 1, and so would be a later quota of that group's that is
		// below this one. Without a quota of its own this group has the other's.
		resources.CpuQuota = -1
		err = g.manager.Set(resources)
	}
	if err != nil {
		return fmt.Errorf("set the control group's limits: %w", err)
	}
	return nil
}
