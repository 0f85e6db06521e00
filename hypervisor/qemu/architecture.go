package qemu

import (
	"fmt"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
)

// architecture is what differs between the machines of guests' architectures.
type architecture struct {
	// program is QEMU's.
	program string
	// machine is the machine's type with its properties, by accelerator.
	machine func(accelerator string) string
	// emulated is the CPU model under TCG. Under KVM it is the host's.
	emulated string
	// params are the kernel's, besides those of every machine.
	params []string
	// hostCounter: under TCG the guest's CPUs read the host's time stamp counter.
	hostCounter bool
	// bridges: the firmware's tables describe the slots of PCI bridges, so that guests
	// are told what is plugged in there.
	bridges bool
	// grows: vCPUs and memory can be plugged in.
	grows bool
}

// architectures lists them by Go's names.
func architectures() map[string]architecture {
	return map[string]architecture{
		"amd64": {
			program: "qemu-system-x86_64", machine: q35, emulated: emulatedX86, bridges: true, grows: true,
			params: []string{
				// Warnings come by the serial port until hvc0 is there: without it, a
				// kernel that ends early says nothing.
				"earlyprintk=ttyS0",
				// Calibrating against timers of a VM is slow and proves nothing.
				"tsc=reliable", "no_timer_check",
				"i8042.noaux=1", "i8042.noprobe=1",
				"reboot=t",
			},
			hostCounter: true,
		},
		// Without a UEFI firmware, whose start takes longer than the kernel's, a device
		// tree describes the machine. There is no ACPI then, by which alone memory is
		// plugged in; vCPUs cannot be on this machine at all.
		"arm64": {
			program: "qemu-system-aarch64", machine: virt, emulated: emulatedARM,
			params: []string{"earlycon"},
		},
	}
}

// architectureOf finds what a guest's architecture takes.
func architectureOf(name string) (architecture, error) {
	found, ok := architectures()[name]
	if !ok {
		return architecture{}, fmt.Errorf("architecture %q: %w", name, hypervisor.ErrUnsupported)
	}
	return found, nil
}

// q35 leaves out every device that a container's guest has no use for: each costs
// the firmware or the kernel a probe.
func q35(accelerator string) string {
	machine := "q35,usb=off,sata=off,smbus=off,vmport=off,i8042=off,smm=off"
	if accelerator == accel.KVM {
		// KVM tells the guest its clock's frequency. Under emulation the guest
		// has to measure it, and needs a clock to measure against: without
		// one it runs on ticks of 4 to 10 ms.
		machine += ",hpet=off"
	}
	return machine
}

// virt has an interrupt controller that takes more than 8 vCPUs and an interrupt for
// each queue of a device.
func virt(accelerator string) string {
	if accelerator == accel.KVM {
		return "virt,gic-version=host"
	}
	return "virt,gic-version=3"
}
