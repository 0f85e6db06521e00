// Package accel chooses how a VMM runs guest code: KVM, or TCG, QEMU's software
// emulation. That /dev/kvm opens proves little: a paravirtual KVM opens, makes
// VMs and vCPUs, and then hangs for ever on a kernel that was not built for it.
// So KVM counts as usable only where the CPU has hardware virtualization and a
// test VM ran an instruction.
package accel

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Names of the accelerators, and what may be wanted.
const (
	// Auto takes KVM where it is known to work, TCG otherwise.
	Auto = "auto"
	KVM  = "kvm"
	TCG  = "tcg"
)

// ErrUnusable says that KVM was demanded and this host cannot offer it.
var ErrUnusable = errors.New("KVM is not usable on this host")

// limit bounds the test VM. It runs one instruction, which takes KVM less than
// a millisecond where the processor is free, and a second and more where KVM
// itself is emulated or the host is overloaded: to take a slow KVM for one that
// hangs makes every pod of the host slow, and a KVM that hangs is rare where
// the CPU has hardware virtualization.
const limit = 5 * time.Second

// Choice is the accelerator to use.
type Choice struct {
	// Name is KVM or TCG.
	Name string
	// Reason says why, in one sentence without a full stop.
	Reason string
	// Warning is set when the choice is one that the user should hear of:
	// software emulation that nobody asked for.
	Warning bool
}

// Select returns the accelerator for want, which is Auto, KVM or TCG. It takes
// some seconds at most, whatever /dev/kvm does. KVM that was demanded and is
// unusable is an error that wraps ErrUnusable, says why, and what to do.
func Select(ctx context.Context, want string) (Choice, error) {
	return choose(ctx, want, probe)
}

// choose is Select with the host's answer injected. test returns nil where an
// unmodified guest runs under KVM, a *UnusableError or ctx's error otherwise.
func choose(ctx context.Context, want string, test func(context.Context) error) (Choice, error) {
	switch want {
	case TCG:
		return Choice{Name: TCG, Reason: "configured"}, nil
	case KVM, Auto:
	default:
		return Choice{}, fmt.Errorf("accelerator %q: want %s, %s or %s", want, Auto, KVM, TCG)
	}
	err := test(ctx)
	if ctx.Err() != nil {
		return Choice{}, fmt.Errorf("test KVM: %w", ctx.Err())
	}
	switch {
	case err == nil && want == KVM:
		return Choice{Name: KVM, Reason: "configured, and a test VM ran"}, nil
	case err == nil:
		return Choice{Name: KVM, Reason: "a test VM ran"}, nil
	case want == KVM:
		return Choice{}, fmt.Errorf("%w: %w", ErrUnusable, err)
	default:
		return Choice{Name: TCG, Reason: err.Error(), Warning: true}, nil
	}
}

// UnusableError is why KVM cannot be used, and the next step.
type UnusableError struct {
	// What is wrong, in a phrase.
	What string
	// Next is what the user can do.
	Next string
	// Err is the cause, nil where there is no error value.
	Err error
}

// Error is one line: what, why, and the next step.
func (e *UnusableError) Error() string {
	text := e.What
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text + " (" + e.Next + ")"
}

// Unwrap returns the cause.
func (e *UnusableError) Unwrap() error { return e.Err }
