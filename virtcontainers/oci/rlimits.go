package oci

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// transformRlimits owns process.rlimits: on one kernel, a process has its
// caller's limits where the specification is silent.
func transformRlimits(t *translation) error {
	if process := t.spec().Process; process != nil {
		inheritRlimits(process, t.options.Rlimits)
	}
	return nil
}

func inheritRlimits(process *specs.Process, callers []specs.POSIXRlimit) {
	listed := slices.Clone(process.Rlimits)
	for _, limit := range callers {
		if !slices.ContainsFunc(listed, func(l specs.POSIXRlimit) bool { return l.Type == limit.Type }) {
			process.Rlimits = append(process.Rlimits, limit)
		}
	}
}
