package supervisor

import (
	"log/slog"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sizing"
)

// sizingOptions says how large the pod's machine may be.
func sizingOptions(boot Boot) virtcontainers.SizingOptions {
	settings := &boot.Config.Hypervisor
	return virtcontainers.SizingOptions{
		Policy: sizing.Policy{
			Default: hypervisor.Size{VCPUs: settings.DefaultVCPUs, MemoryMiB: settings.DefaultMemoryMiB},
			Max:     hypervisor.Size{VCPUs: settings.MaxVCPUs(), MemoryMiB: settings.MaxMemoryMiB()},
		},
		Sandbox: boot.SandboxDemand,
		Static:  boot.Config.Runtime.StaticSandboxResources,
	}
}

// firstSize is what the machine starts with: all that is known by then, because
// nothing is plugged in as cheaply as what is there from the start. A machine
// that never grows is what its sandbox announced, if it did.
func firstSize(boot Boot, options virtcontainers.SizingOptions, log *slog.Logger) hypervisor.Size {
	demand := boot.Demand.Max(boot.SandboxDemand)
	if options.Static && boot.SandboxDemand != (sizing.Demand{}) {
		demand = boot.SandboxDemand
	}
	size, capped := options.Policy.Size(demand)
	if capped {
		log.Warn("the container's limits are more than the machine may have", "vcpus", size.VCPUs, "memory_mib", size.MemoryMiB,
			"wanted_millicpus", demand.MilliCPUs, "wanted_memory_bytes", demand.MemoryBytes)
	}
	return size
}
