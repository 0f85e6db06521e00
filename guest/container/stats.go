package container

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/types"
)

// containerStats are runc's, and what it leaves out.
type containerStats struct {
	*types.Stats

	// MemoryEvents are the cgroup's memory.events: how often it came to its limits,
	// and what that has cost.
	MemoryEvents map[string]uint64 `json:"memory_events,omitempty"`
}

// Stats returns the container's resource usage as the JSON of runc's
// types.Stats, which "events --stats" prints, with the events of memory added.
// Network counters are the pod's, and not part of it.
func (r *Runtime) Stats(id string) ([]byte, error) {
	c, err := r.find(id)
	if err != nil {
		return nil, err
	}
	stats, err := c.stats()
	if err != nil {
		return nil, fmt.Errorf("statistics of container %q: %w", id, err)
	}
	data, err := json.Marshal(stats)
	if err != nil {
		return nil, fmt.Errorf("statistics of container %q: %w", id, err)
	}
	return data, nil
}

func (c *container) stats() (containerStats, error) {
	if asleep, _ := c.whileAsleep(func(*sleep) error { return nil }); asleep { // it has no processes
		return containerStats{Stats: eventStats(cgroups.NewStats())}, nil
	}
	stats, err := c.lc.Stats()
	if err != nil {
		return containerStats{}, err
	}
	return containerStats{eventStats(stats.CgroupStats), c.memoryEvents()}, nil
}

func eventStats(from *cgroups.Stats) *types.Stats {
	to := &types.Stats{
		CPU:     cpuStats(&from.CpuStats),
		CPUSet:  types.CPUSet(from.CPUSetStats),
		Memory:  memoryStats(&from.MemoryStats),
		Pids:    types.Pids{Current: from.PidsStats.Current, Limit: from.PidsStats.Limit},
		Blkio:   blkioStats(&from.BlkioStats),
		Hugetlb: map[string]types.Hugetlb{},
	}
	for size, pages := range from.HugetlbStats {
		to.Hugetlb[size] = types.Hugetlb{Usage: pages.Usage, Max: pages.MaxUsage, Failcnt: pages.Failcnt}
	}
	return to
}

func cpuStats(from *cgroups.CpuStats) types.Cpu {
	usage, throttled := &from.CpuUsage, &from.ThrottlingData
	return types.Cpu{
		Usage: types.CpuUsage{
			Total: usage.TotalUsage, Percpu: usage.PercpuUsage,
			PercpuKernel: usage.PercpuUsageInKernelmode, PercpuUser: usage.PercpuUsageInUsermode,
			Kernel: usage.UsageInKernelmode, User: usage.UsageInUsermode,
		},
		Throttling: types.Throttling{
			Periods: throttled.Periods, ThrottledPeriods: throttled.ThrottledPeriods, ThrottledTime: throttled.ThrottledTime,
		},
		PSI: from.PSI,
	}
}

func memoryStats(from *cgroups.MemoryStats) types.Memory {
	entry := func(data cgroups.MemoryData) types.MemoryEntry {
		return types.MemoryEntry{Limit: data.Limit, Usage: data.Usage, Max: data.MaxUsage, Failcnt: data.Failcnt}
	}
	return types.Memory{
		Cache: from.Cache, Raw: from.Stats, PSI: from.PSI,
		Usage: entry(from.Usage), Swap: entry(from.SwapUsage),
		Kernel: entry(from.KernelUsage), KernelTCP: entry(from.KernelTCPUsage),
	}
}

func blkioStats(from *cgroups.BlkioStats) types.Blkio {
	entries := func(list []cgroups.BlkioStatEntry) []types.BlkioEntry {
		converted := make([]types.BlkioEntry, len(list))
		for i, entry := range list {
			converted[i] = types.BlkioEntry(entry)
		}
		return converted
	}
	return types.Blkio{
		IoServiceBytesRecursive: entries(from.IoServiceBytesRecursive),
		IoServicedRecursive:     entries(from.IoServicedRecursive),
		IoQueuedRecursive:       entries(from.IoQueuedRecursive),
		IoServiceTimeRecursive:  entries(from.IoServiceTimeRecursive),
		IoWaitTimeRecursive:     entries(from.IoWaitTimeRecursive),
		IoMergedRecursive:       entries(from.IoMergedRecursive),
		IoTimeRecursive:         entries(from.IoTimeRecursive),
		SectorsRecursive:        entries(from.SectorsRecursive),
		PSI:                     from.PSI,
	}
}
