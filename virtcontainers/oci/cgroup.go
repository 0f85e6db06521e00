package oci

import (
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// transformCgroup owns linux.cgroupsPath and what of linux.resources means
// something else in the guest, whose cgroups are those of version 2. All other
// limits reach the guest as they are.
func transformCgroup(t *translation) error {
	linux := t.spec().Linux
	if linux.CgroupsPath != "" {
		t.drop("linux.cgroupsPath", linux.CgroupsPath)
		linux.CgroupsPath = ""
	}
	if linux.Resources == nil {
		return nil
	}
	if err := t.checkBlockIO(linux.Resources.BlockIO); err != nil {
		return err
	}
	translateResources(linux.Resources, t.drop)
	return nil
}

// TransformResources translates resources that a running container is to get.
// The original stays as it is. dropped is as in GuestSpec.
func TransformResources(resources *specs.LinuxResources) (guest *specs.LinuxResources, dropped []string, err error) {
	guest, err = deepCopy(resources)
	if err != nil {
		return nil, nil, err
	}
	t := &translation{guest: &GuestSpec{}}
	if err := checkWeights(guest.BlockIO); err != nil {
		return nil, nil, err
	}
	translateResources(guest, t.drop)
	return guest, t.guest.Dropped, nil
}

func translateResources(r *specs.LinuxResources, drop func(field string, value any)) {
	if r.Network != nil {
		if r.Network.ClassID != nil {
			drop("linux.resources.network.classID", *r.Network.ClassID)
		}
		if len(r.Network.Priorities) > 0 {
			drop("linux.resources.network.priorities", r.Network.Priorities)
		}
		r.Network = nil
	}
	if len(r.Rdma) > 0 {
		drop("linux.resources.rdma", r.Rdma)
		r.Rdma = nil
	}
	if r.Memory != nil {
		dropVersion1Memory(r.Memory, drop)
	}
	if r.CPU != nil {
		dropPointer(&r.CPU.RealtimeRuntime, "linux.resources.cpu.realtimeRuntime", drop)
		dropPointer(&r.CPU.RealtimePeriod, "linux.resources.cpu.realtimePeriod", drop)
	}
	if r.BlockIO != nil {
		dropPointer(&r.BlockIO.LeafWeight, "linux.resources.blockIO.leafWeight", drop)
		for i := range r.BlockIO.WeightDevice {
			dropPointer(&r.BlockIO.WeightDevice[i].LeafWeight, "linux.resources.blockIO.weightDevice[].leafWeight", drop)
		}
	}
}

// dropVersion1Memory drops what cgroups of version 2 have no file for.
func dropVersion1Memory(m *specs.LinuxMemory, drop func(field string, value any)) {
	const table = "linux.resources.memory."
	dropPointer(&m.Kernel, table+"kernel", drop) //nolint:staticcheck // deprecated, and written by docker before 23
	dropPointer(&m.KernelTCP, table+"kernelTCP", drop)
	dropPointer(&m.Swappiness, table+"swappiness", drop)
	dropPointer(&m.DisableOOMKiller, table+"disableOOMKiller", drop)
	dropPointer(&m.UseHierarchy, table+"useHierarchy", drop)
}

func dropPointer[T any](value **T, field string, drop func(field string, value any)) {
	if *value == nil {
		return
	}
	drop(field, **value)
	*value = nil
}

// checkWeights refuses what is no weight of block I/O: libcontainer makes one of
// another range of it, which turns a smaller one into nonsense. 0 is none.
func checkWeights(b *specs.LinuxBlockIO) error {
	const least, most = 10, 1000
	if b == nil {
		return nil
	}
	weights := map[string]*uint16{"weight": b.Weight}
	for i, device := range b.WeightDevice {
		weights[fmt.Sprintf("weightDevice[%d].weight", i)] = device.Weight
	}
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if w := weights[name]; w != nil && *w != 0 && (*w < least || *w > most) {
			return fmt.Errorf("linux.resources.blockIO.%s: %d is not from %d to %d", name, *w, least, most)
		}
	}
	return nil
}

// checkBlockIO refuses limits on block devices of the host that the container
// does not have: its files come over the share.
func (t *translation) checkBlockIO(b *specs.LinuxBlockIO) error {
	if b == nil {
		return nil
	}
	if err := checkWeights(b); err != nil {
		return err
	}
	numbers := make(map[string][][2]int64)
	for _, w := range b.WeightDevice {
		numbers["weightDevice"] = append(numbers["weightDevice"], [2]int64{w.Major, w.Minor})
	}
	for name, limits := range map[string][]specs.LinuxThrottleDevice{
		"throttleReadBpsDevice":   b.ThrottleReadBpsDevice,
		"throttleWriteBpsDevice":  b.ThrottleWriteBpsDevice,
		"throttleReadIOPSDevice":  b.ThrottleReadIOPSDevice,
		"throttleWriteIOPSDevice": b.ThrottleWriteIOPSDevice,
	} {
		for _, limit := range limits {
			numbers[name] = append(numbers[name], [2]int64{limit.Major, limit.Minor})
		}
	}
	for name, devices := range numbers {
		for _, number := range devices {
			if !t.hasBlockDevice(number) {
				return fmt.Errorf("linux.resources.blockIO.%s: a limit on the block device %d:%d, which the container does not have, is %w",
					name, number[0], number[1], ErrUnsupported)
			}
		}
	}
	return nil
}

func (t *translation) hasBlockDevice(number [2]int64) bool {
	return slices.ContainsFunc(t.guest.BlockDevices, func(d BlockDevice) bool {
		return int64(d.Major) == number[0] && int64(d.Minor) == number[1]
	})
}
