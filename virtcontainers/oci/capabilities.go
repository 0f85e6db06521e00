package oci

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// UnknownCapabilities is a warning about names of capabilities that no kernel
// knows, which the agent leaves out, as runc does; or empty. A misspelled one is
// seen by nobody otherwise.
func UnknownCapabilities(process *specs.Process) string {
	if process == nil || process.Capabilities == nil {
		return ""
	}
	sets := process.Capabilities
	known := capabilities()
	var unknown []string
	for _, name := range slices.Concat(sets.Bounding, sets.Effective, sets.Permitted, sets.Inheritable, sets.Ambient) {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	if unknown == nil {
		return ""
	}
	slices.Sort(unknown)
	return fmt.Sprintf("process.capabilities: unknown ones have no effect: %q", slices.Compact(unknown))
}

// warnOfCapabilities owns nothing: the guest gets process.capabilities as they are.
func warnOfCapabilities(t *translation) error {
	if warning := UnknownCapabilities(t.spec().Process); warning != "" {
		t.guest.Warnings = append(t.guest.Warnings, warning)
	}
	return nil
}
