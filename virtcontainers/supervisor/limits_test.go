package supervisor

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
		emulated bool
		want     cgroup.Limits
	}{
		{sizing.Demand{}, true, cgroup.Limits{}},
		{sizing.Demand{MemoryBytes: 64 << 20}, false, cgroup.Limits{MemoryBytes: 2612 << 20}},
		{sizing.Demand{MemoryBytes: 64 << 20}, true, cgroup.Limits{MemoryBytes: 3636 << 20}},
		{sizing.Demand{MilliCPUs: 1500}, false, cgroup.Limits{MilliCPUs: 2500}},
	} {
		if got := hostLimits(size, c.demand, settings, c.emulated); got != c.want {
			t.Errorf("%+v, emulated %v: %+v, want %+v", c.demand, c.emulated, got, c.want)
		}
	}
}
