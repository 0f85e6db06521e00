package oci

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// transformNamespaces owns linux.namespaces. The agent interprets what is left:
// a namespace without a path is new, one with a path is the pod's. The network
// namespace is always the pod's: the whole VM.
func transformNamespaces(t *translation) error {
	linux := t.spec().Linux
	present, err := namespaceTypes(linux.Namespaces)
	if err != nil {
		return err
	}
	if !present[specs.PIDNamespace] {
		return fmt.Errorf("linux.namespaces: the host's processes (no pid namespace) are %w", ErrUnsupported)
	}
	t.guest.Namespaces = slices.Clone(linux.Namespaces)
	for i, ns := range linux.Namespaces {
		if ns.Path == "" || ns.Type == specs.NetworkNamespace {
			continue
		}
		if err := t.checkJoin(ns); err != nil {
			return fmt.Errorf("linux.namespaces[%d].path: %w", i, err)
		}
	}
	linux.Namespaces = slices.DeleteFunc(linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.NetworkNamespace
	})
	return nil
}

// checkJoin tells whether an existing namespace can be meant: in a pod, what
// its containers can share.
func (t *translation) checkJoin(ns specs.LinuxNamespace) error {
	switch ns.Type {
	case specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace:
		if t.options.InSandbox {
			return nil
		}
	default: // The pod's containers share none of these.
	}
	return fmt.Errorf("joining the %s namespace %s is %w", ns.Type, ns.Path, ErrUnsupported)
}
