package hypervisor

import (
	"errors"
	"testing"
)

// An error about a VMM that has ended says how, what it said last, and where to look on.
func TestExitError(t *testing.T) {
	for want, err := range map[string]*ExitError{
		`QEMU ended: exit status 1: "no kernel"`:                                   {VMM: "QEMU", Status: "exit status 1", Stderr: "no kernel\n"},
		"QEMU ended: signal: killed (if it was for lack of memory, dmesg says so)": {VMM: "QEMU", Status: "signal: killed"},
		"QEMU ended: signal: segmentation fault":                                   {VMM: "QEMU", Status: "signal: segmentation fault"},
	} {
		if err.Error() != want || !errors.Is(err, ErrEnded) {
			t.Errorf("%q, want %q", err.Error(), want)
		}
	}
}
