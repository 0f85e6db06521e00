package machine

import (
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/qemu"
)

// OverheadMiB is the memory that a machine's VMM takes beyond what any does, with
// hardware virtualization or without.
func OverheadMiB(emulated bool) int {
	if emulated {
		return qemu.OverheadMiB(accel.TCG)
	}
	return qemu.OverheadMiB(accel.KVM)
}
