package cgroup

import (
	"fmt"

	"github.com/opencontainers/cgroups"
)

// period is that of the CPU quota, in microseconds: the kernel's default.
const period = 100000

// Limits bound what the processes of a group use together. They are those of a
// whole pod with its VMM, never a container's as they stand.
type Limits struct {
	// MemoryBytes is the most memory; 0: what it was.
	MemoryBytes int64
	// MilliCPUs is the most CPU time, in thousandths of a CPU; 0: what it was.
	MilliCPUs int64
}

// Limit sets the group's limits. The group must have been made.
func (g *Group) Limit(limits Limits) error {
	if g == nil || limits == (Limits{}) {
		return nil
	}
	resources := &cgroups.Resources{
		// The VMM opens devices of the host that no container is meant to
		// reach; a container's rules hold in the guest.
		SkipDevices: true, SkipFreezeOnSet: true,
		Memory: limits.MemoryBytes,
	}
	if limits.MilliCPUs > 0 {
		resources.CpuPeriod, resources.CpuQuota = period, limits.MilliCPUs*period/1000
	}
	if err := g.manager.Set(resources); err != nil {
		return fmt.Errorf("set the control group's limits: %w", err)
	}
	return nil
}
