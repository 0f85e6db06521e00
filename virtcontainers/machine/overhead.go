package machine

import (
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/sizing"
)

// Overhead is what a pod takes beyond its containers with a configuration, with
// hardware virtualization or, where emulated says so, without.
func Overhead(settings *config.Config, emulated bool) sizing.Overhead {
	accelerator := accel.KVM
	if emulated {
		accelerator = accel.TCG
	}
	return sizing.OverheadOf(settings.Hypervisor.DefaultMemoryMiB, qemu.OverheadMiB(accelerator))
}
