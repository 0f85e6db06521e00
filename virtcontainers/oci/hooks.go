package oci

import "github.com/opencontainers/runtime-spec/specs-go"

// transformHooks owns hooks: the specification has startContainer alone run in
// the container, with a path of the container's. The others name programs of
// the host, which whoever runs them finds in the original.
func transformHooks(t *translation) error {
	spec := t.spec()
	if spec.Hooks == nil {
		return nil
	}
	start := spec.Hooks.StartContainer
	spec.Hooks = nil
	if len(start) > 0 {
		spec.Hooks = &specs.Hooks{StartContainer: start}
	}
	return nil
}
