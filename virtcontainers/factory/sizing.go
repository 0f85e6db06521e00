package factory

import (
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sizing"
)

// sizingOptions says how large the pod's machine may be.
func sizingOptions(spec Spec) virtcontainers.SizingOptions {
	settings := &spec.Config.Hypervisor
	return virtcontainers.SizingOptions{
		Policy: sizing.Policy{
			Default: hypervisor.Size{VCPUs: settings.DefaultVCPUs, MemoryMiB: settings.DefaultMemoryMiB},
			Max:     hypervisor.Size{VCPUs: settings.MaxVCPUs(), MemoryMiB: settings.MaxMemoryMiB()},
		},
		Sandbox: spec.SandboxDemand,
		Static:  spec.Config.Runtime.StaticSandboxResources,
	}
}

// firstSize is what the machine starts with: all that is known by then, because
// nothing is plugged in as cheaply as what is there from the start. A machine
// that never grows is what its sandbox announced, if it did.
func firstSize(spec Spec, options virtcontainers.SizingOptions) hypervisor.Size {
	demand := spec.Demand.Max(spec.SandboxDemand)
	if options.Static && spec.SandboxDemand != (sizing.Demand{}) {
		demand = spec.SandboxDemand
	}
	size, capped := options.Policy.Size(demand)
	if capped {
		spec.Log.Warn("the container's limits are more than the machine may have", "vcpus", size.VCPUs, "memory_mib", size.MemoryMiB,
			"wanted_millicpus", demand.MilliCPUs, "wanted_memory_bytes", demand.MemoryBytes)
	}
	return size
}
