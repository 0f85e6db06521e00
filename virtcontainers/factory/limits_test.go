package factory

import (
	"errors"
	"log/slog"
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

// A host that lacks what a bound takes which nobody asks for sets the others, and one
// that lacks what a container's limit takes is an error.
func TestBoundsThatAHostCannotSet(t *testing.T) {
	refusal := errors.New("no such controller")
	size, settings := hypervisor.Size{VCPUs: 1, MemoryMiB: 100}, &config.Runtime{OverheadMemoryMiB: 200, OverheadVCPUs: 1}
	for name, c := range map[string]struct {
		tasks, memory bool // the host has
		demand        sizing.Demand
		want          cgroup.Limits
		err           error
	}{
		"all":                      {true, true, sizing.Demand{}, cgroup.Limits{MemoryBytes: 1324 << 20, Tasks: maxTasks}, nil},
		"no pids":                  {false, true, sizing.Demand{}, cgroup.Limits{MemoryBytes: 1324 << 20}, nil},
		"nothing":                  {false, false, sizing.Demand{}, cgroup.Limits{}, nil},
		"no pids, a limit":         {false, true, sizing.Demand{MemoryBytes: 1}, cgroup.Limits{MemoryBytes: 300 << 20}, nil},
		"no memory, and its limit": {true, false, sizing.Demand{MemoryBytes: 1}, cgroup.Limits{}, refusal},
	} {
		t.Run(name, func(t *testing.T) {
			var set cgroup.Limits
			l := &limiter{settings: settings, log: slog.New(slog.DiscardHandler), group: func(limits cgroup.Limits) error {
				if limits.Tasks > 0 && !c.tasks || limits.MemoryBytes > 0 && !c.memory {
					return refusal
				}
				set = limits
				return nil
			}}
			for range 2 {
				if err := l.limit(size, c.demand); !errors.Is(err, c.err) {
					t.Errorf("error %v", err)
				}
				if set != c.want {
					t.Errorf("set %+v, want %+v", set, c.want)
				}
			}
		})
	}
}
