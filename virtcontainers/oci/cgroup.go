package oci

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// transformCgroup owns linux.cgroupsPath and what of linux.resources means
// something else in the guest, whose cgroups are those of version 2. All other
// limits reach the guest as they are.
func transformCgroup(t *translation) error {
	linux := t.spec().Linux
	t.guest.CgroupsPath = linux.CgroupsPath
	if linux.CgroupsPath != "" {
		t.drop("linux.cgroupsPath", linux.CgroupsPath)
		linux.CgroupsPath = ""
	}
	if linux.Resources == nil {
		return nil
	}
	return translateResources(linux.Resources, t.drop)
}

// TransformResources translates resources that a running container is to get.
// The original stays as it is. dropped is as in GuestSpec.
func TransformResources(resources *specs.LinuxResources) (guest *specs.LinuxResources, dropped []string, err error) {
	guest, err = deepCopy(resources)
	if err != nil {
		return nil, nil, err
	}
	t := &translation{guest: &GuestSpec{}}
	if err := translateResources(guest, t.drop); err != nil {
		return nil, nil, err
	}
	return guest, t.guest.Dropped, nil
}

func translateResources(r *specs.LinuxResources, drop func(field string, value any)) error {
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
		return translateBlockIO(r.BlockIO, drop)
	}
	return nil
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

// translateBlockIO refuses limits on block devices of the host: the container
// does not see them, and its files come over the share.
func translateBlockIO(b *specs.LinuxBlockIO, drop func(field string, value any)) error {
	lists := []struct {
		name   string
		length int
	}{
		{"weightDevice", len(b.WeightDevice)},
		{"throttleReadBpsDevice", len(b.ThrottleReadBpsDevice)},
		{"throttleWriteBpsDevice", len(b.ThrottleWriteBpsDevice)},
		{"throttleReadIOPSDevice", len(b.ThrottleReadIOPSDevice)},
		{"throttleWriteIOPSDevice", len(b.ThrottleWriteIOPSDevice)},
	}
	for _, list := range lists {
		if list.length > 0 {
			return fmt.Errorf("linux.resources.blockIO.%s: a limit on a block device of the host is %w", list.name, ErrUnsupported)
		}
	}
	dropPointer(&b.LeafWeight, "linux.resources.blockIO.leafWeight", drop)
	return nil
}
