package factory

import (
	"testing"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/sizing"
)

func TestHostLimits(t *testing.T) {
	size := hypervisor.Size{VCPUs: 3, MemoryMiB: 2112}
	settings := &config.Runtime{OverheadMemoryMiB: 500, OverheadVCPUs: 1}
	for _, c := range []struct {
		demand   sizing.Demand
		overhead int
		want     cgroup.Limits
	}{
		{sizing.Demand{}, 256, cgroup.Limits{MemoryBytes: 3892 << 20, Tasks: maxTasks}},
		{sizing.Demand{MemoryBytes: 64 << 20}, 0, cgroup.Limits{MemoryBytes: 2612 << 20, Tasks: maxTasks}},
		{sizing.Demand{MemoryBytes: 64 << 20}, 256, cgroup.Limits{MemoryBytes: 2868 << 20, Tasks: maxTasks}},
		{sizing.Demand{MilliCPUs: 1500}, 0, cgroup.Limits{MilliCPUs: 2500, MemoryBytes: 3636 << 20, Tasks: maxTasks}},
	} {
		if got := hostLimits(size, c.demand, settings, c.overhead); got != c.want {
			t.Errorf("%+v, overhead %d: %+v, want %+v", c.demand, c.overhead, got, c.want)
		}
	}
}
