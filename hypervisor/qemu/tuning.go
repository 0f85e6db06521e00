package qemu

import "kata-runtime/hypervisor/accel"

// What a VM's start costs was measured with QEMU 7.2 under TCG on two cores that
// were busy otherwise: CPU time of a whole run, from QEMU's start to a power-off
// by the first process of the guest, the least of 5 to 8 runs, in all 1.2-1.5 s.
//
//	each root port                         +35-45 ms (8: 0.3 s, 32: 1.1 s)
//	a PCI bridge with 31 slots             +0.15 s, as much as four root ports;
//	                                       on an idle machine +0.03 s (least of 7, alternating)
//	an initrd with the agent, 10.7 MB      +0.07 s on an idle machine (least of 7, alternating)
//	native instead of ACPI hot-plug        +0.05 s with 8 ports
//	I/O windows behind the root ports      within the noise
//	one function per slot instead of eight within the noise
//	erms and fsrm in the CPU model         +0.25 s with an initrd of 14 MB
//	2 GiB of memory instead of 256 MiB     +0.2 s
//	slots for memory, up to 64 vCPUs       within the noise
//	QEMU's sandbox                         +0.02-0.1 s
//	qboot instead of SeaBIOS               within the noise
//	Linux' rewriting of itself for one CPU 0.15-0.2 s, which noreplace-smp would spare;
//	                                       a lock prefix that stays is a call into QEMU
//	                                       (a creation takes 125 ms at least then, 122 without)
//	measuring the time stamp counter       0.06-0.08 s
//	the translation cache, 32 to 1024 MiB  within the noise
//	one thread for all vCPUs               within the noise
//
// So the number of ports and bridges is what a user can save on. A bridge pays from
// four of them on, but takes no PCI Express device and no native hot-plug.

// translationMiB is the size of TCG's cache of translated code, in MiB. QEMU's
// default is 1024, all of which a guest that runs long enough fills: the host
// pays for it. When the cache is full QEMU starts it afresh.
const translationMiB = 256

// OverheadMiB is a VM's hypervisor.Info.OverheadMiB with an accelerator.
func OverheadMiB(accelerator string) int {
	if accelerator == accel.TCG {
		return translationMiB
	}
	return 0
}

// emulatedX86 is the CPU model under TCG: all that QEMU emulates, but for what is
// slower than doing without. ERMS and FSRM make Linux copy and clear memory by
// single bytes, which hardware does fast and TCG does one at a time. Five-level
// page tables make each walk longer. MPX, for which no compiler of today makes
// code, has registers that Linux saves and loads at every change of threads.
const emulatedX86 = "max,erms=off,fsrm=off,la57=off,mpx=off"

// emulatedARM is the CPU model under TCG. What QEMU can emulate beyond it takes the
// kernel longer to use than it saves: with all of it ("max"), which has pointer
// authentication by a slow cipher, a boot takes five times as long, and half as long
// again with a fast one.
const emulatedARM = "cortex-a57"

// emulatedParam leaves out under TCG what a guest's kernel does against
// speculation. Its code is not what speculates: each of its indirect branches,
// that of a retpoline too, is a look-up and an indirect branch of QEMU's on the
// host, and an lfence is nothing there. So it would protect nothing, at the price
// of three branches for one, and of 32 calls at each change of threads.
const emulatedParam = "mitigations=off"

// counterParam spares Linux the measuring of its time stamp counter's frequency, which
// takes 60 to 80 ms of a boot under TCG. Linux corrects the value by up to 1 % after a
// second.
const counterParam = "tsc_early_khz="

// memoryBlockMiB is the granularity of memory hot-plug: Linux on x86 adds
// memory in blocks of 128 MiB.
const memoryBlockMiB = 128
