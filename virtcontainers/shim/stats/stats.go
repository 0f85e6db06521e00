// Package stats turns a container's statistics, as the guest tells them in the
// form of runc's events, into the message that containerd and its callers read
// (io.containerd.cgroups.v2.Metrics).
//
// The guest's word is bounded in size and in what names it may bring: containerd
// keeps them as labels of its own metrics. Its numbers are believed.
package stats

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	// maxSize bounds the guest's statistics, in bytes.
	maxSize = 1 << 20
	// maxDevices and maxPageSizes bound its lists; a machine has fewer.
	maxDevices, maxPageSizes = 256, 16
)

// pageSize is the name of a size of huge pages in a cgroup's files.
var pageSize = regexp.MustCompile(`^[0-9]{1,9}[KMG]B$`)

// runcStats are the parts of runc's statistics that are used.
type runcStats struct {
	CPU struct {
		Usage struct { // nanoseconds
			Total, Kernel, User uint64
		}
		Throttling struct {
			Periods, ThrottledPeriods uint64
			ThrottledTime             uint64 // nanoseconds
		}
		PSI *pressure
	}
	Memory struct {
		Usage, Swap memoryEntry // Swap includes memory, as with cgroups of version 1
		Raw         map[string]uint64
		PSI         *pressure
	}
	// MemoryEvents is the agent's addition.
	MemoryEvents map[string]uint64 `json:"memory_events"`
	Pids         struct{ Current, Limit uint64 }
	Blkio        struct {
		Bytes      []blkioEntry `json:"ioServiceBytesRecursive"`
		Operations []blkioEntry `json:"ioServicedRecursive"`
		PSI        *pressure
	}
	Hugetlb map[string]struct{ Usage, Max, Failcnt uint64 }
}

type memoryEntry struct{ Limit, Usage, Max uint64 }

type blkioEntry struct {
	Major, Minor, Value uint64
	Op                  string
}

type pressure struct{ Some, Full pressureData }

type pressureData struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Convert converts the guest's JSON.
func Convert(data []byte) (*anypb.Any, error) {
	metrics, err := Metrics(data)
	if err != nil {
		return nil, err
	}
	message, err := typeurl.MarshalAnyToProto(metrics)
	if err != nil {
		return nil, fmt.Errorf("encode the container's statistics: %w", err)
	}
	return message, nil
}

// Metrics is Convert before its encoding.
func Metrics(data []byte) (*stats.Metrics, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("the container's statistics are %d bytes long, more than the %d that they may be", len(data), maxSize)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return nil, errors.New("the container's statistics are no JSON object")
	}
	var from runcStats
	if err := json.Unmarshal(data, &from); err != nil {
		return nil, fmt.Errorf("decode the container's statistics: %w", err)
	}
	cpu, events := &from.CPU, from.MemoryEvents
	return &stats.Metrics{
		// runc tells of no limit by 0, containerd by the largest number.
		Pids: &stats.PidsStat{Current: from.Pids.Current, Limit: orUnlimited(from.Pids.Limit)},
		CPU: &stats.CPUStat{
			UsageUsec: cpu.Usage.Total / 1000, UserUsec: cpu.Usage.User / 1000, SystemUsec: cpu.Usage.Kernel / 1000,
			NrPeriods: cpu.Throttling.Periods, NrThrottled: cpu.Throttling.ThrottledPeriods,
			ThrottledUsec: cpu.Throttling.ThrottledTime / 1000, PSI: cpu.PSI.convert(),
		},
		Memory: memory(&from),
		MemoryEvents: &stats.MemoryEvents{
			Low: events["low"], High: events["high"], Max: events["max"],
			Oom: events["oom"], OomKill: events["oom_kill"], OomGroupKill: events["oom_group_kill"],
		},
		Io:      io(&from),
		Hugetlb: hugetlb(&from),
	}, nil
}

func orUnlimited(limit uint64) uint64 {
	if limit == 0 {
		return math.MaxUint64
	}
	return limit
}

func (p *pressure) convert() *stats.PSIStats {
	if p == nil {
		return nil
	}
	data := func(d pressureData) *stats.PSIData {
		return &stats.PSIData{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, Total: d.Total}
	}
	return &stats.PSIStats{Some: data(p.Some), Full: data(p.Full)}
}

func memory(from *runcStats) *stats.MemoryStat {
	m, raw := &from.Memory, from.Memory.Raw
	to := &stats.MemoryStat{
		Usage: m.Usage.Usage, UsageLimit: m.Usage.Limit, MaxUsage: m.Usage.Max, PSI: m.PSI.convert(),

		Anon: raw["anon"], File: raw["file"], KernelStack: raw["kernel_stack"], Slab: raw["slab"], Sock: raw["sock"], Shmem: raw["shmem"],
		FileMapped: raw["file_mapped"], FileDirty: raw["file_dirty"], FileWriteback: raw["file_writeback"], AnonThp: raw["anon_thp"],
		InactiveAnon: raw["inactive_anon"], ActiveAnon: raw["active_anon"],
		InactiveFile: raw["inactive_file"], ActiveFile: raw["active_file"], Unevictable: raw["unevictable"],
		SlabReclaimable: raw["slab_reclaimable"], SlabUnreclaimable: raw["slab_unreclaimable"],
		Pgfault: raw["pgfault"], Pgmajfault: raw["pgmajfault"],
		// The kernel tells these two for anonymous memory and files apart since 5.9.
		WorkingsetRefault:     raw["workingset_refault"] + raw["workingset_refault_anon"] + raw["workingset_refault_file"],
		WorkingsetActivate:    raw["workingset_activate"] + raw["workingset_activate_anon"] + raw["workingset_activate_file"],
		WorkingsetNodereclaim: raw["workingset_nodereclaim"],
		Pgrefill:              raw["pgrefill"], Pgscan: raw["pgscan"], Pgsteal: raw["pgsteal"],
		Pgactivate: raw["pgactivate"], Pgdeactivate: raw["pgdeactivate"], Pglazyfree: raw["pglazyfree"], Pglazyfreed: raw["pglazyfreed"],
		ThpFaultAlloc: raw["thp_fault_alloc"], ThpCollapseAlloc: raw["thp_collapse_alloc"],
	}
	if m.Swap.Usage > m.Usage.Usage {
		to.SwapUsage = m.Swap.Usage - m.Usage.Usage
	}
	switch {
	case m.Swap.Limit == math.MaxUint64:
		to.SwapLimit = math.MaxUint64
	case m.Usage.Limit == math.MaxUint64:
		// The sum of the two has overflown by one less than the limit of swap.
		to.SwapLimit = m.Swap.Limit + 1
	case m.Swap.Limit > m.Usage.Limit:
		to.SwapLimit = m.Swap.Limit - m.Usage.Limit
	}
	return to
}

// io puts what runc has in tables by kind together again by device.
func io(from *runcStats) *stats.IOStat {
	to := &stats.IOStat{PSI: from.Blkio.PSI.convert()}
	entry := func(e blkioEntry) *stats.IOEntry {
		for _, known := range to.Usage {
			if known.Major == e.Major && known.Minor == e.Minor {
				return known
			}
		}
		if len(to.Usage) == maxDevices {
			return &stats.IOEntry{} // is dropped
		}
		added := &stats.IOEntry{Major: e.Major, Minor: e.Minor}
		to.Usage = append(to.Usage, added)
		return added
	}
	for _, e := range from.Blkio.Bytes {
		switch e.Op {
		case "Read":
			entry(e).Rbytes = e.Value
		case "Write":
			entry(e).Wbytes = e.Value
		}
	}
	for _, e := range from.Blkio.Operations {
		switch e.Op {
		case "Read":
			entry(e).Rios = e.Value
		case "Write":
			entry(e).Wios = e.Value
		}
	}
	return to
}

func hugetlb(from *runcStats) []*stats.HugeTlbStat {
	var to []*stats.HugeTlbStat
	for size, pages := range from.Hugetlb {
		if pageSize.MatchString(size) {
			to = append(to, &stats.HugeTlbStat{Pagesize: size, Current: pages.Usage, Max: pages.Max, Failcnt: pages.Failcnt})
		}
	}
	slices.SortFunc(to, func(a, b *stats.HugeTlbStat) int { return strings.Compare(a.Pagesize, b.Pagesize) })
	return to[:min(len(to), maxPageSizes)]
}
