package oci

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrHostNetwork is wrapped by CheckNetwork's error about the host's network.
var ErrHostNetwork = errors.New("the host's network is refused")

// NetworkMode is which network a specification asks for.
type NetworkMode int

const (
	// NetworkNew is a new network namespace.
	NetworkNew NetworkMode = iota + 1
	// NetworkJoin is an existing namespace, at NetworkPath.
	NetworkJoin
)

// String returns "new" or "join".
func (m NetworkMode) String() string {
	switch m {
	case NetworkNew:
		return "new"
	case NetworkJoin:
		return "join"
	default:
		return fmt.Sprintf("network mode %d", int(m))
	}
}

// CheckNetwork classifies the network of a specification from which
// LeaveOutHost has taken the host's. None at all is the host's, which a VM
// cannot have: the error wraps ErrHostNetwork and says what to do.
func CheckNetwork(spec *specs.Spec) (NetworkMode, error) {
	namespace := networkNamespace(spec)
	switch {
	case namespace == nil:
		return 0, fmt.Errorf("linux.namespaces: %w: a container in a virtual machine has a network of its own; "+
			"add {\"type\": \"network\"}, or run without host networking (--network host, hostNetwork), "+
			"or set host_network = \"passt\" in the configuration to send its traffic through the host in user space", ErrHostNetwork)
	case namespace.Path == "":
		return NetworkNew, nil
	default:
		return NetworkJoin, nil
	}
}

// NetworkPath is the path of the network namespace to join, "" for a new one
// or none.
func NetworkPath(spec *specs.Spec) string {
	if namespace := networkNamespace(spec); namespace != nil {
		return namespace.Path
	}
	return ""
}

func networkNamespace(spec *specs.Spec) *specs.LinuxNamespace {
	if spec.Linux == nil {
		return nil
	}
	for i, namespace := range spec.Linux.Namespaces {
		if namespace.Type == specs.NetworkNamespace {
			return &spec.Linux.Namespaces[i]
		}
	}
	return nil
}
