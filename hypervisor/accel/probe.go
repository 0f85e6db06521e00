package accel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// kvmAPIVersion is the only stable version of the KVM API
// (Documentation/virt/kvm/api.rst, 4.1).
const kvmAPIVersion = 12

// ioctl requests of <linux/kvm.h> that take no structure; type 0xAE.
const (
	kvmGetAPIVersion   = 0xae00
	kvmCreateVM        = 0xae01
	kvmGetVCPUMmapSize = 0xae04
	kvmCreateVCPU      = 0xae41
	kvmRun             = 0xae80
)

const (
	nextEmulate  = "set the accelerator to tcg to run by software emulation"
	nextHardware = "use a host with hardware virtualization, or one whose hypervisor " +
		"offers nested virtualization, or " + nextEmulate
)

// probe says whether an unmodified guest runs under KVM here. The test VM runs
// on a thread of its own: should KVM not even honour a signal, the thread is
// left behind rather than the caller.
func probe(ctx context.Context) error {
	if err := checkCPU(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- testVM(ctx, "/dev/kvm") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// The VM was told to stop; give it a moment to say what it saw.
	timer := time.NewTimer(limit / 4)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return errHangs()
	}
}

func errHangs() error {
	return &UnusableError{What: "a test VM hangs under KVM", Next: nextHardware}
}

// testVM makes a VM and lets the architecture's code run in it.
func testVM(ctx context.Context, device string) error {
	kvm, err := os.OpenFile(device, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return openProblem(device, err)
	}
	defer kvm.Close()
	fd := int(kvm.Fd())
	if version, err := ioctl(fd, kvmGetAPIVersion, 0); err != nil || version != kvmAPIVersion {
		return &UnusableError{
			What: fmt.Sprintf("%s answers API version %d instead of %d", device, version, kvmAPIVersion),
			Next: nextEmulate, Err: err,
		}
	}
	vm, err := ioctl(fd, kvmCreateVM, 0)
	if err != nil {
		return &UnusableError{What: "KVM makes no VM", Next: nextHardware, Err: err}
	}
	defer unix.Close(vm)
	return runVCPU(ctx, fd, vm)
}

func openProblem(device string, err error) error {
	p := &UnusableError{What: "KVM cannot be used", Next: nextEmulate, Err: err}
	switch {
	case errors.Is(err, os.ErrNotExist):
		p.What = "there is no " + device
		p.Next = "enable virtualization in the firmware and load the kernel's kvm module, or " + nextEmulate
		p.Err = nil
	case errors.Is(err, os.ErrPermission):
		p.Next = "run as root or as a member of the group that owns " + device + ", or " + nextEmulate
	}
	return p
}

// ioctl returns the call's non-negative result.
func ioctl(fd int, request, argument uintptr) (int, error) {
	for {
		result, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
		switch {
		case errno == 0:
			return int(result), nil
		case errno == unix.EINTR && request != kvmRun:
		default:
			return -1, errno
		}
	}
}

// kickUntil interrupts the calling goroutine's thread, which must be locked,
// every few milliseconds from ctx's end on, so that KVM_RUN returns EINTR; once
// is not enough, as the signal may come just before the system call. SIGURG is
// the Go runtime's own signal for that purpose, and harmless. The caller calls
// the returned function when it has left KVM_RUN; only then may the thread end.
func kickUntil(ctx context.Context, before func()) (stop func()) {
	thread, finished, gone := unix.Gettid(), make(chan struct{}), make(chan struct{})
	runtime.LockOSThread()
	go func() {
		defer close(gone)
		select {
		case <-ctx.Done():
		case <-finished:
			return
		}
		before()
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for {
			_ = unix.Tgkill(unix.Getpid(), thread, unix.SIGURG)
			select {
			case <-ticker.C:
			case <-finished:
				return
			}
		}
	}()
	return func() {
		close(finished)
		<-gone
		runtime.UnlockOSThread()
	}
}
