package accel

import (
	"context"
	"unsafe"

	"golang.org/x/sys/unix"
)

// checkCPU leaves it to KVM: arm64 does not show EL2 in /proc/cpuinfo, and the
// kernel makes no VM without it.
func checkCPU() error { return nil }

// ioctl requests of <linux/kvm.h>: struct kvm_vcpu_init is 32 bytes.
const (
	kvmARMPreferredTarget = 0x8020aeaf
	kvmARMVCPUInit        = 0x4020aeae
)

// runVCPU makes and initialises a vCPU. There is no paravirtual KVM on arm64 to
// be told apart by running code.
func runVCPU(_ context.Context, _, vm int) error {
	vcpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return &UnusableError{What: "KVM makes no vCPU", Next: nextHardware, Err: err}
	}
	defer unix.Close(vcpu)
	var target [32]byte
	if _, err := ioctl(vm, kvmARMPreferredTarget, uintptr(unsafe.Pointer(&target))); err != nil {
		return &UnusableError{What: "KVM names no CPU model", Next: nextHardware, Err: err}
	}
	if _, err := ioctl(vcpu, kvmARMVCPUInit, uintptr(unsafe.Pointer(&target))); err != nil {
		return &UnusableError{What: "KVM initialises no vCPU", Next: nextHardware, Err: err}
	}
	return nil
}
