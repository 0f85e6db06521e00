package accel

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// checkCPU demands the processor's own virtualization. Without it, a KVM that
// opens is a paravirtual one, on which a stock kernel hangs.
func checkCPU() error {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return &UnusableError{What: "the CPU's features are unknown", Next: nextEmulate, Err: err}
	}
	defer file.Close()
	return checkFlags(file)
}

// checkFlags looks for vmx (Intel) or svm (AMD) in cpuinfo's flags.
func checkFlags(cpuinfo io.Reader) error {
	lines := bufio.NewScanner(cpuinfo)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		flags := strings.Fields(value)
		if slices.Contains(flags, "vmx") || slices.Contains(flags, "svm") {
			return nil
		}
		break
	}
	return &UnusableError{What: "the CPU offers no hardware virtualization (vmx or svm)", Next: nextHardware}
}

// ioctl requests of <linux/kvm.h> with their structures' sizes.
const (
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84
	kvmSetRegs             = 0x4090ae82
)

// Offsets into struct kvm_run, struct kvm_regs and struct kvm_sregs.
const (
	runImmediateExit = 1
	runExitReason    = 8
	regsSize         = 144
	regsRIP          = 128
	regsRFLAGS       = 136
	sregsSize        = 312
	// struct kvm_segment: base 8, limit 4, selector 2, type and flags.
	segmentBase     = 0
	segmentSelector = 12
)

const (
	kvmExitHLT = 5
	// codeAddress is where the guest's one instruction lies: page 1.
	codeAddress = 0x1000
	opcodeHLT   = 0xf4
	// rflagsReserved is the bit of RFLAGS that is always set.
	rflagsReserved = 2
)

// memoryRegion is struct kvm_userspace_memory_region.
type memoryRegion struct {
	slot, flags                     uint32
	guestAddress, size, hostAddress uint64
}

// runVCPU runs a HLT in real mode and expects KVM_EXIT_HLT.
func runVCPU(ctx context.Context, kvm, vm int) error {
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map the test VM's memory: %w", err)
	}
	defer func() { _ = unix.Munmap(page) }()
	page[0] = opcodeHLT
	region := memoryRegion{
		guestAddress: codeAddress, size: uint64(len(page)),
		hostAddress: uint64(uintptr(unsafe.Pointer(&page[0]))),
	}
	if _, err := ioctl(vm, kvmSetUserMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		return vcpuProblem("takes no memory for a VM", err)
	}
	vcpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return vcpuProblem("makes no vCPU", err)
	}
	defer unix.Close(vcpu)
	if err := setRegisters(vcpu); err != nil {
		return vcpuProblem("takes no registers", err)
	}
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil || size < runExitReason+4 {
		return vcpuProblem("tells no vCPU area", err)
	}
	run, err := unix.Mmap(vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return vcpuProblem("maps no vCPU area", err)
	}
	defer func() { _ = unix.Munmap(run) }()
	return enter(ctx, vcpu, run)
}

// setRegisters points the vCPU, which is in real mode after reset, at the code.
func setRegisters(vcpu int) error {
	var sregs [sregsSize]byte
	if _, err := ioctl(vcpu, kvmGetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return err
	}
	// The code segment comes first in struct kvm_sregs.
	binary.NativeEndian.PutUint64(sregs[segmentBase:], 0)
	binary.NativeEndian.PutUint16(sregs[segmentSelector:], 0)
	if _, err := ioctl(vcpu, kvmSetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return err
	}
	var regs [regsSize]byte
	binary.NativeEndian.PutUint64(regs[regsRIP:], codeAddress)
	binary.NativeEndian.PutUint64(regs[regsRFLAGS:], rflagsReserved)
	_, err := ioctl(vcpu, kvmSetRegs, uintptr(unsafe.Pointer(&regs)))
	return err
}

// enter runs the vCPU until it leaves or ctx ends.
func enter(ctx context.Context, vcpu int, run []byte) error {
	stop := kickUntil(ctx, func() {
		// immediate_exit is the second byte; the word store also writes the
		// first, request_interrupt_window, which is 0.
		var word [4]byte
		word[runImmediateExit] = 1
		atomic.StoreUint32((*uint32)(unsafe.Pointer(&run[0])), binary.NativeEndian.Uint32(word[:]))
	})
	defer stop()
	for {
		_, err := ioctl(vcpu, kvmRun, 0)
		switch {
		case errors.Is(err, unix.EINTR) && ctx.Err() != nil:
			return errHangs()
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN) && ctx.Err() == nil:
			continue
		case err != nil:
			return vcpuProblem("runs no vCPU", err)
		}
		if reason := binary.NativeEndian.Uint32(run[runExitReason:]); reason != kvmExitHLT {
			return &UnusableError{
				What: fmt.Sprintf("a test VM left KVM with exit reason %d instead of %d", reason, kvmExitHLT),
				Next: nextHardware,
			}
		}
		return nil
	}
}

func vcpuProblem(what string, err error) error {
	return &UnusableError{What: "KVM " + what, Next: nextHardware, Err: err}
}
