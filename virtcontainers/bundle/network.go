package bundle

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/oci"
)

// findNetwork looks at which network the container asks for. The host's is
// refused unless it is allowed.
func (b *Bundle) findNetwork(options Options) error {
	mode, err := oci.CheckNetwork(b.Spec)
	switch {
	case errors.Is(err, oci.ErrHostNetwork) && options.HostNetwork:
		b.HostNetwork = true
		return checkPodOnHost(options.Pod)
	case err != nil || mode == oci.NetworkNew || options.Pod != nil: // a pod's network is that of its first container
		return err
	}
	if b.joined, err = network.NewNamespace(b.netns); err != nil {
		b.netns = nil
		return err
	}
	b.Interfaces, err = b.joined.CountInterfaces()
	return err
}

// isHost tells whether a namespace of the specification is one of the host's. The
// network's stays open: what is at its path may change.
func (b *Bundle) isHost(ns specs.LinuxNamespace) (bool, error) {
	if ns.Type != specs.NetworkNamespace || b.netns != nil { // two are refused later
		return namespace.PathIsHost(ns.Type, ns.Path)
	}
	file, err := namespace.Open(ns.Type, ns.Path)
	if err != nil {
		return false, err
	}
	hosts, err := namespace.IsHost(ns.Type, file)
	if err != nil || hosts {
		file.Close()
		return hosts, err
	}
	b.netns = file
	return false, nil
}

// Namespaces are those of the specification for a process on the host that stands
// for the container. Until Close or TakeNetwork, the network's is the open one,
// whatever is at its path by now.
func (b *Bundle) Namespaces() []specs.LinuxNamespace {
	namespaces := slices.Clone(b.Spec.Linux.Namespaces)
	for i, ns := range namespaces {
		if ns.Type == specs.NetworkNamespace && ns.Path != "" && b.netns != nil {
			namespaces[i].Path = fmt.Sprintf("/proc/self/fd/%d", b.netns.Fd())
		}
	}
	return namespaces
}

// Network is the namespace that the container's specification names, which stays
// the bundle's; nil: none, or the host's.
func (b *Bundle) Network() *os.File { return b.netns }

// TakeNetwork hands over the namespace of a container that starts a pod; nil: its
// specification names none, or the host's.
func (b *Bundle) TakeNetwork() *network.Namespace {
	joined := b.joined
	if joined != nil {
		b.joined, b.netns = nil, nil
	}
	return joined
}

// Close lets go of what Prepare has opened. Idempotent.
func (b *Bundle) Close() {
	if b.joined != nil {
		_ = b.joined.Close() // a descriptor
	} else if b.netns != nil {
		b.netns.Close()
	}
	b.joined, b.netns = nil, nil
}

// checkPodOnHost refuses the host's network to a container whose pod has
// another: the machine has one alone.
func checkPodOnHost(pod Pod) error {
	if pod == nil {
		return nil
	}
	hosts, err := pod.OnHostNetwork()
	if err == nil && !hosts {
		err = fmt.Errorf("linux.namespaces: %w: its pod %s has a network of its own, which its containers share", oci.ErrHostNetwork, pod.ID())
	}
	return err
}
