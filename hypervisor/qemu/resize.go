package qemu

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"kata-runtime/hypervisor"
)

// Resize plugs vCPUs and memory into the running VM; see hypervisor.VM. Memory
// grows at most four times and therefore by more than it must, from an eighth of
// what there is at first to as much again at last: so many small steps are
// possible. What the guest does not use, the host does not give. Neither shrinks: a smaller
// size leaves the VM as it is. The guest must bring new vCPUs online itself.
// More than Options.MaxSize, or than the architecture can plug, wraps
// ErrUnsupported, and may have changed one of the two.
func (vm *VM) Resize(ctx context.Context, size hypervisor.Size) (hypervisor.Size, error) {
	unlock, err := vm.lockPlugging(ctx)
	if err != nil {
		return vm.Info().Size, fmt.Errorf("resize VM %s: %w", vm.opts.Name, err)
	}
	defer unlock()
	if err := vm.resize(ctx, size); err != nil {
		return vm.Info().Size, fmt.Errorf("resize VM %s: %w", vm.opts.Name, err)
	}
	return vm.Info().Size, nil
}

func (vm *VM) resize(ctx context.Context, size hypervisor.Size) error {
	if _, err := vm.running(); err != nil {
		return err
	}
	limit, now := vm.opts.MaxSize, vm.Info().Size
	if !vm.opts.arch.grows && (size.VCPUs > now.VCPUs || size.MemoryMiB > now.MemoryMiB) {
		return fmt.Errorf("a machine of %s has the size that it started with: %w", vm.opts.Architecture, hypervisor.ErrUnsupported)
	}
	if size.VCPUs > limit.VCPUs || size.MemoryMiB > limit.MemoryMiB {
		return fmt.Errorf("%d vCPUs and %d MiB are more than the VM's maximum of %d and %d: %w",
			size.VCPUs, size.MemoryMiB, limit.VCPUs, limit.MemoryMiB, hypervisor.ErrUnsupported)
	}
	if size.MemoryMiB > now.MemoryMiB {
		if err := vm.addMemory(ctx, now.MemoryMiB, size.MemoryMiB); err != nil {
			return err
		}
	}
	if size.VCPUs > now.VCPUs {
		return vm.addVCPUs(ctx, size.VCPUs-now.VCPUs)
	}
	return nil
}

// addMemory plugs one DIMM.
func (vm *VM) addMemory(ctx context.Context, now, wanted int) error {
	if vm.dimms == dimmSlots {
		return fmt.Errorf("%d MiB more memory, and all %d slots are taken: %w", wanted-now, dimmSlots, hypervisor.ErrUnsupported)
	}
	mib := dimmSize(now, wanted, vm.opts.MaxSize.MemoryMiB, vm.dimms)
	id := vm.name("memory")
	backend := map[string]any{
		"qom-type": "memory-backend-memfd", "id": id, "share": true, "size": int64(mib) << 20,
	}
	if err := vm.call(ctx, "object-add", backend, nil); err != nil {
		return err
	}
	dimm := map[string]any{"driver": "pc-dimm", "id": id + "-dimm", "memdev": id}
	if err := vm.call(ctx, "device_add", dimm, nil); err != nil {
		if undo := vm.call(context.WithoutCancel(ctx), "object-del", map[string]any{"id": id}, nil); undo != nil {
			vm.opts.Log.DebugContext(ctx, "release memory", "error", undo)
		}
		return err
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.info.Size.MemoryMiB += mib
	vm.dimms++
	return nil
}

// dimmSize is how much memory is plugged in at once, in MiB: enough to reach
// what is wanted, and more the fewer slots are left, where the maximum allows it.
func dimmSize(now, wanted, most, used int) int {
	ahead := now >> (dimmSlots - 1 - used)
	mib := max(wanted-now, min(ahead, most-now))
	return (mib + memoryBlockMiB - 1) / memoryBlockMiB * memoryBlockMiB
}

// vcpuSlot is a place for a vCPU, empty while Path is.
type vcpuSlot struct {
	Type  string         `json:"type"`
	Path  string         `json:"qom-path"`
	Props map[string]int `json:"props"`
}

// compareSlots orders by what identifies a vCPU, most significant first.
func compareSlots(a, b vcpuSlot) int {
	for _, key := range []string{"node-id", "socket-id", "die-id", "cluster-id", "core-id", "thread-id"} {
		if order := cmp.Compare(a.Props[key], b.Props[key]); order != 0 {
			return order
		}
	}
	return 0
}

func (vm *VM) addVCPUs(ctx context.Context, n int) error {
	var slots []vcpuSlot
	if err := vm.call(ctx, "query-hotpluggable-cpus", nil, &slots); err != nil {
		return err
	}
	slots = slices.DeleteFunc(slots, func(s vcpuSlot) bool { return s.Path != "" })
	slices.SortFunc(slots, compareSlots)
	if len(slots) < n {
		return fmt.Errorf("%d more vCPUs, and the machine takes %d: %w", n, len(slots), hypervisor.ErrUnsupported)
	}
	for _, slot := range slots[:n] {
		if err := vm.addVCPU(ctx, slot); err != nil {
			return err
		}
	}
	return nil
}

func (vm *VM) addVCPU(ctx context.Context, slot vcpuSlot) error {
	vm.mu.Lock()
	vm.serial++
	arguments := map[string]any{"driver": slot.Type, "id": "hot-vcpu" + strconv.Itoa(vm.serial)}
	vm.mu.Unlock()
	for key, value := range slot.Props {
		// The NUMA node follows from the place.
		if key != "node-id" {
			arguments[key] = value
		}
	}
	if err := vm.call(ctx, "device_add", arguments, nil); err != nil {
		return err
	}
	client, err := vm.running()
	if err != nil {
		return err
	}
	threads, err := vm.vcpuThreads(ctx, client)
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.info.Size.VCPUs++
	if err == nil {
		vm.info.VCPUThreads = threads
	}
	return err
}
