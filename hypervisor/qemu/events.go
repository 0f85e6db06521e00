package qemu

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/qmp"
	"kata-runtime/hypervisor/tail"
)

// handle takes QEMU's events, on the goroutine that reads the connection.
func (vm *VM) handle(e qmp.Event) {
	var data struct {
		Reason string `json:"reason"`
		Device string `json:"device"`
		Status string `json:"status"`
	}
	if err := e.Decode(&data); err != nil {
		// QEMU can say it as often as it likes.
		vm.unreadable.Do(func() {
			vm.opts.Log.Warn("unreadable event of QEMU's", "vm", vm.opts.Name, "event", tail.Line(e.Name), "error", err)
		})
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
	case "MIGRATION":
		vm.migrated(data.Status)
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

// vcpu is what QEMU says of one.
type vcpu struct {
	Index  int `json:"cpu-index"`
	Thread int `json:"thread-id"`
}

// vcpuThreads returns the host threads of the vCPUs, in vCPU order. QEMU says what
// they are called in its PID namespace; a thread that is not QEMU's is none.
func (vm *VM) vcpuThreads(ctx context.Context, client *qmp.Client) ([]int, error) {
	var cpus []vcpu
	if err := client.Execute(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return nil, err
	}
	vm.mu.Lock()
	pid := vm.info.PID
	vm.mu.Unlock()
	own, err := jail.Threads(pid)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(cpus, func(a, b vcpu) int { return cmp.Compare(a.Index, b.Index) })
	threads := make([]int, 0, len(own))
	for _, cpu := range cpus {
		if thread, ok := own[cpu.Thread]; ok {
			threads = append(threads, thread)
			delete(own, cpu.Thread) // each is one vCPU's
		}
	}
	return threads, nil
}
