package bundle

import (
	"errors"
	"fmt"

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
	pods, err := network.OpenNamespace(oci.NetworkPath(b.Spec))
	if err != nil {
		return err
	}
	defer pods.Close()
	b.Interfaces, err = pods.CountInterfaces()
	return err
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
