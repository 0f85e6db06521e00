package factory

import (
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/sizing"
)

// hostLimits are those of the pod's control group on the host. A container's
// limit as it stands would kill the VMM, which needs memory for what the guest
// uses beside its containers and for itself, of which overheadMiB is the driver's
// own. What nobody limits stays without.
func hostLimits(size hypervisor.Size, demand sizing.Demand, settings *config.Runtime, overheadMiB int) cgroup.Limits {
	var limits cgroup.Limits
	if demand.MemoryBytes > 0 {
		memory := size.MemoryMiB + settings.OverheadMemoryMiB + overheadMiB
		limits.MemoryBytes = int64(memory) << 20
	}
	if demand.MilliCPUs > 0 {
		limits.MilliCPUs = demand.MilliCPUs + int64(settings.OverheadVCPUs)*1000
	}
	return limits
}

// limitHost sets the limits of the pod's group for the machine's first size and what
// is asked for by then, and returns what sets them again. A limit that nobody asks
// for any more goes.
func limitHost(spec Spec, machine hypervisor.Info, size hypervisor.Size, demand sizing.Demand) (func(hypervisor.Size, sizing.Demand) error, error) {
	var last cgroup.Limits
	limit := func(size hypervisor.Size, demand sizing.Demand) error {
		limits := hostLimits(size, demand, &spec.Config.Runtime, machine.OverheadMiB)
		if err := spec.Group.Limit(limits.After(last)); err != nil {
			return err
		}
		last = limits
		return nil
	}
	return limit, limit(size, demand)
}
