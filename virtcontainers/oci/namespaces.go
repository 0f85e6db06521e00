package oci

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
)

// LeaveOutHost takes out of a specification the namespaces that a path names and
// that hosts tells to be the host's: managers say so in either way, docker and
// CRI-O by a path (its own namespace, or that of a process that shares it),
// podman and containerd by leaving the namespace out. What the host's means is
// then decided in one place for both. User and mount namespaces stay: a path of
// either is an error in any case. It returns a note on each.
func LeaveOutHost(spec *specs.Spec, hosts func(specs.LinuxNamespace) (bool, error)) (notes []string, err error) {
	if spec.Linux == nil {
		return nil, nil
	}
	var kept []specs.LinuxNamespace
	for i, ns := range spec.Linux.Namespaces {
		if ns.Path == "" || ns.Type == specs.UserNamespace || ns.Type == specs.MountNamespace {
			kept = append(kept, ns)
			continue
		}
		host, err := hosts(ns)
		if err != nil {
			return nil, fmt.Errorf("linux.namespaces[%d].path: %w", i, err)
		}
		if host {
			notes = append(notes, fmt.Sprintf("linux.namespaces[%d].path: %s is the host's %s namespace", i, ns.Path, ns.Type))
			continue
		}
		kept = append(kept, ns)
	}
	spec.Linux.Namespaces = kept
	return notes, nil
}

// transformNamespaces owns linux.namespaces, and hostname. The agent interprets what is left:
// a namespace without a path is new, one with a path is the pod's or another
// container's, in the words of package protocol. The network namespace is
// always the pod's: the whole VM.
func transformNamespaces(t *translation) error {
	linux := t.spec().Linux
	present, err := namespaceTypes(linux.Namespaces)
	if err != nil {
		return err
	}
	if !present[specs.PIDNamespace] {
		return fmt.Errorf("linux.namespaces: the host's processes (no pid namespace) are %w", ErrUnsupported)
	}
	for i := range linux.Namespaces {
		ns := &linux.Namespaces[i]
		if ns.Path, err = t.guestNamespace(*ns, present[specs.UserNamespace]); err != nil {
			return fmt.Errorf("linux.namespaces[%d].path: %w", i, err)
		}
	}
	if t.spec().Hostname == "" && hasNew(linux.Namespaces, specs.UTSNamespace) {
		t.spec().Hostname = t.options.Hostname
	}
	linux.Namespaces = slices.DeleteFunc(linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.NetworkNamespace
	})
	return nil
}

// hasNew tells whether the guest is to make a namespace for this container
// alone.
func hasNew(namespaces []specs.LinuxNamespace, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind && ns.Path == "" })
}

// guestNamespace returns the path by which the agent knows a namespace. ownUsers
// tells that the container has a user namespace of its own.
func (t *translation) guestNamespace(ns specs.LinuxNamespace, ownUsers bool) (string, error) {
	switch {
	case t.options.Owner != nil:
		return t.memberNamespace(ns)
	case ns.Type == specs.NetworkNamespace:
		return "", nil
	case ns.Type == specs.UserNamespace && t.options.Sandbox && len(t.spec().Linux.UIDMappings) > 0 && len(t.spec().Linux.GIDMappings) > 0:
		return "", nil // made before the pod, and described: the guest's is a new one
	case ns.Type != specs.IPCNamespace && ns.Type != specs.UTSNamespace:
	case ownUsers && (ns.Path == "" || t.options.Sandbox):
		return "", nil // its user namespace must own them, or it may not use them
	case ns.Path == "", t.options.Sandbox:
		// Whatever the host calls them, for the guest they are those that
		// later containers of the pod share.
		return protocol.SandboxNamespace, nil
	}
	if ns.Path != "" {
		return "", fmt.Errorf("joining the %s namespace %s is %w: it is of no container in this virtual machine", ns.Type, ns.Path, ErrUnsupported)
	}
	return "", nil
}

// memberNamespace is guestNamespace for a container that joins a pod.
func (t *translation) memberNamespace(ns specs.LinuxNamespace) (string, error) {
	if ns.Path == "" {
		if ns.Type == specs.NetworkNamespace {
			return "", fmt.Errorf("a new network namespace in a pod is %w: the pod's containers share the network of its virtual machine", ErrUnsupported)
		}
		return "", nil
	}
	switch ns.Type {
	case specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.NetworkNamespace, specs.UserNamespace:
	default: // the pod's containers share none of these
		return "", fmt.Errorf("joining the %s namespace %s is %w", ns.Type, ns.Path, ErrUnsupported)
	}
	owner, err := t.options.Owner(ns)
	if err != nil {
		return "", err
	}
	if owner == "" {
		return "", fmt.Errorf("joining the %s namespace %s is %w: it is of no running container of the pod", ns.Type, ns.Path, ErrUnsupported)
	}
	if owner == PodItself {
		return podNamespace(ns)
	}
	return protocol.ContainerNamespace(owner), nil
}

// PodItself is what GuestOptions.Owner returns for a namespace of a pod that has
// no container beside those that join it. It is no container's id.
const PodItself = "/"

// podNamespace is memberNamespace for a namespace of the pod itself. No process
// lives in it, so that there is none of those that end with their first one.
func podNamespace(ns specs.LinuxNamespace) (string, error) {
	switch ns.Type {
	case specs.IPCNamespace, specs.UTSNamespace:
		return protocol.SandboxNamespace, nil
	case specs.NetworkNamespace:
		return "", nil
	case specs.PIDNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.MountNamespace, specs.TimeNamespace:
	}
	return "", fmt.Errorf("sharing the %s namespace of a pod that was not made to share it is %w", ns.Type, ErrUnsupported)
}
