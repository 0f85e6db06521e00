package qemu

import (
	"context"
	"strings"

	"kata-runtime/hypervisor/qmp"
)

// handle takes QEMU's events, on the goroutine that reads the connection.
func (vm *VM) handle(e qmp.Event) {
	var data struct {
		Reason string `json:"reason"`
		Device string `json:"device"`
	}
	if err := e.Decode(&data); err != nil {
		vm.opts.Log.Warn("unreadable event of QEMU's", "vm", vm.opts.Name, "event", e.Name, "error", err)
		return
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	switch e.Name {
	case "SHUTDOWN":
		vm.shutdown = data.Reason
	case "STOP":
		vm.paused = true
	case "RESUME":
		vm.paused = false
	case "DEVICE_DELETED":
		// It comes twice for a virtio device; the first, for the part inside
		// it, names no device.
		if d := vm.devices[strings.TrimPrefix(data.Device, qemuID(""))]; d != nil {
			d.markDeleted(nil)
		}
	case "DEVICE_UNPLUG_GUEST_ERROR":
		if d := vm.devices[strings.TrimPrefix(data.Device, qemuID(""))]; d != nil {
			d.markDeleted(errGuestKeeps)
		}
	}
}

// vcpuThreads returns the host threads of the vCPUs, in vCPU order.
func vcpuThreads(ctx context.Context, client *qmp.Client) ([]int, error) {
	var cpus []struct {
		Index  int `json:"cpu-index"`
		Thread int `json:"thread-id"`
	}
	if err := client.Execute(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return nil, err
	}
	byIndex := make(map[int]int, len(cpus))
	highest := -1
	for _, cpu := range cpus {
		byIndex[cpu.Index] = cpu.Thread
		highest = max(highest, cpu.Index)
	}
	threads := make([]int, 0, len(cpus))
	for i := 0; i <= highest; i++ {
		if thread, ok := byIndex[i]; ok {
			threads = append(threads, thread)
		}
	}
	return threads, nil
}
