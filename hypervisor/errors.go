package hypervisor

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that every driver uses, for errors.Is.
var (
	// ErrStarted: Start was called before.
	ErrStarted = errors.New("VM was started before")
	// ErrNotRunning: the VM is not running yet.
	ErrNotRunning = errors.New("VM is not running")
	// ErrEnded: the VMM has ended.
	ErrEnded = errors.New("VM has ended")
	// ErrUnsupported: this driver, VMM or VM cannot do it.
	ErrUnsupported = errors.New("not supported by this VM")
	// ErrNoSlot: every hot-plug slot is taken.
	ErrNoSlot = errors.New("no free hot-plug slot")
	// ErrGuestReset: the guest ended the VM by a reset that nobody asked for: its
	// kernel panicked or crashed.
	ErrGuestReset = errors.New("guest reset itself")
	// ErrNoDevice: no device has this id.
	ErrNoDevice = errors.New("no such device")
)

// killedStatus is a Status that nobody may have asked for: the kernel kills what has used
// more memory than its group may, or the host has.
const killedStatus = "signal: killed"

// ExitError says that the VMM ended of itself. It wraps ErrEnded.
type ExitError struct {
	// VMM is the program's name.
	VMM string
	// Status is how it ended: "exit status 1", "signal: killed".
	Status string
	// Stderr holds the last lines that it wrote to its standard error.
	Stderr string
}

// Error is one line, with the VMM's last words quoted.
func (e *ExitError) Error() string {
	text := fmt.Sprintf("%s ended: %s", e.VMM, e.Status)
	if e.Status == killedStatus {
		text += " (if it was for lack of memory, dmesg says so)"
	}
	if words := strings.TrimSpace(e.Stderr); words != "" {
		text += fmt.Sprintf(": %q", words)
	}
	return text
}

// Unwrap returns ErrEnded.
func (e *ExitError) Unwrap() error { return ErrEnded }
