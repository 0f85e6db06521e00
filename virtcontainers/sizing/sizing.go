// Package sizing decides how large a pod's virtual machine is: the default size
// and what the limits of its containers ask for, bounded by the configuration
// and by what the host has.
package sizing

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/hypervisor"
)

// defaultPeriod is the kernel's period of a CPU quota, in microseconds.
const defaultPeriod = 100000

// Demand is what limits ask for.
type Demand struct {
	// MilliCPUs is CPU time in thousandths of a CPU.
	MilliCPUs int64 `json:",omitempty"`
	// MemoryBytes is memory.
	MemoryBytes int64 `json:",omitempty"`
}

// Plus adds two demands. What is beyond all numbers stays there.
func (d Demand) Plus(other Demand) Demand {
	return Demand{
		MilliCPUs:   add(d.MilliCPUs, other.MilliCPUs),
		MemoryBytes: add(d.MemoryBytes, other.MemoryBytes),
	}
}

// Max is the larger of two demands in each respect.
func (d Demand) Max(other Demand) Demand {
	return Demand{MilliCPUs: max(d.MilliCPUs, other.MilliCPUs), MemoryBytes: max(d.MemoryBytes, other.MemoryBytes)}
}

func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Of returns what resources ask for. No limit asks for nothing: the container is
// content with the default size.
func Of(r *specs.LinuxResources) Demand {
	if r == nil {
		return Demand{}
	}
	var d Demand
	if r.CPU != nil && r.CPU.Quota != nil {
		d.MilliCPUs = milliCPUs(*r.CPU.Quota, r.CPU.Period)
	}
	if r.Memory != nil && r.Memory.Limit != nil {
		d.MemoryBytes = memory(*r.Memory.Limit)
	}
	return d
}

func milliCPUs(quota int64, period *uint64) int64 {
	if quota <= 0 {
		return 0
	}
	p := float64(defaultPeriod)
	if period != nil && *period > 0 {
		p = float64(*period)
	}
	return int64(min(math.Ceil(float64(quota)*1000/p), 1<<40))
}

// memory ignores what cgroup drivers write for no limit: the largest number, or
// the largest one in whole pages.
func memory(limit int64) int64 {
	const unlimited = math.MaxInt64 &^ 0xffff
	if limit <= 0 || limit >= unlimited {
		return 0
	}
	return limit
}

// Merge returns old with what an OCI LinuxResources as JSON names set.
func Merge(old *specs.LinuxResources, update []byte) (*specs.LinuxResources, error) {
	merged := &specs.LinuxResources{}
	copied, err := json.Marshal(old)
	if err != nil {
		return nil, fmt.Errorf("copy resources: %w", err)
	}
	for _, layer := range [][]byte{copied, update} {
		if err := json.Unmarshal(layer, merged); err != nil {
			return nil, fmt.Errorf("decode resources: %w", err)
		}
	}
	return merged, nil
}

// Annotations by which containerd tells a sandbox's size in advance.
const (
	annotationQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	annotationShares = "io.kubernetes.cri.sandbox-cpu-shares"
	annotationMemory = "io.kubernetes.cri.sandbox-memory"
)

// Annotations makes the annotations that OfSandbox reads.
func Annotations(period, quota, shares, memoryBytes int64) map[string]string {
	return map[string]string{
		annotationPeriod: strconv.FormatInt(period, 10), annotationQuota: strconv.FormatInt(quota, 10),
		annotationShares: strconv.FormatInt(shares, 10), annotationMemory: strconv.FormatInt(memoryBytes, 10),
	}
}

// OfSandbox returns what a sandbox's annotations announce for all of its
// containers together. CPU shares count where no quota is set: 1024 of them are
// a requested CPU.
func OfSandbox(annotations map[string]string) Demand {
	var d Demand
	period := uint64(number(annotations, annotationPeriod))
	if quota := number(annotations, annotationQuota); quota > 0 {
		d.MilliCPUs = milliCPUs(quota, &period)
	} else if shares := number(annotations, annotationShares); shares > minShares {
		d.MilliCPUs = int64(math.Ceil(float64(min(shares, maxShares)) * 1000 / 1024))
	}
	d.MemoryBytes = memory(number(annotations, annotationMemory))
	return d
}

const (
	// minShares is what stands for no request, and maxShares the most that the
	// kernel took with cgroups of version 1.
	minShares, maxShares = 2, 262144
)

// number reads an annotation that is a number above 0; others count as 0.
func number(annotations map[string]string, key string) int64 {
	n, err := strconv.ParseInt(annotations[key], 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// Policy is how demands become sizes.
type Policy struct {
	// Default is the size without any demand.
	Default hypervisor.Size
	// Max is never exceeded.
	Max hypervisor.Size
}

// Size is the size of a machine for a demand. capped tells that the demand is
// more than the policy's maximum.
func (p Policy) Size(d Demand) (size hypervisor.Size, capped bool) {
	cpus := add(d.MilliCPUs, 999) / 1000
	const mib = 1 << 20
	wanted := add(d.MemoryBytes, mib-1) / mib
	size = hypervisor.Size{
		VCPUs:     int(min(int64(p.Default.VCPUs)+min(cpus, math.MaxInt32), int64(p.Max.VCPUs))),
		MemoryMiB: int(min(add(int64(p.Default.MemoryMiB), wanted), int64(p.Max.MemoryMiB))),
	}
	// What a container may use at most needs no more than the host has.
	capped = cpus > int64(p.Max.VCPUs) || wanted > int64(p.Max.MemoryMiB)
	return size, capped
}
