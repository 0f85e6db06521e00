package factory

import (
	"errors"
	"strconv"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/network"
)

const (
	// maxColdNICs bounds the NICs that a machine has from the start: the root
	// bus has room for other devices too. More are plugged in.
	maxColdNICs = 8
	// maxQueues bounds the queue pairs of a NIC. Each costs a thread of the
	// host's kernel; more than this help few guests.
	maxQueues = 8
)

// networkOptions says how a pod's machine is connected, and makes the taps of
// the NICs that it has from the start: a spare one for a pod whose namespace is
// still empty, since plugging one in costs time.
func networkOptions(spec Spec, size hypervisor.Size) (virtcontainers.NetworkOptions, []*hypervisor.NIC, error) {
	options := virtcontainers.NetworkOptions{
		Model:  network.Model(spec.Config.Runtime.NetworkModel),
		Queues: min(max(1, size.VCPUs), maxQueues), Vhost: !spec.Config.Hypervisor.DisableVhostNet,
	}
	if spec.HostNetwork || options.Model != network.ModelTC {
		return options, nil, nil
	}
	var nics []*hypervisor.NIC
	for i := range min(max(1, spec.Interfaces), maxColdNICs) {
		tap, err := network.NewTap(options.Queues, options.Vhost)
		if errors.Is(err, network.ErrNoTap) && spec.Interfaces == 0 {
			spec.Log.Debug("no spare interface", "reason", err)
			break
		}
		if err != nil {
			return options, nil, errors.Join(err, closeTaps(options.Spare))
		}
		options.Spare = append(options.Spare, tap)
		nics = append(nics, tap.NIC("nic"+strconv.Itoa(i)))
		if i < spec.Interfaces {
			options.Keep = append(options.Keep, tap.MAC)
		}
	}
	return options, nics, nil
}

func closeTaps(taps []*network.Tap) error {
	var errs []error
	for _, tap := range taps {
		errs = append(errs, tap.Close())
	}
	return errors.Join(errs...)
}

// findHostNetwork describes the host's network, for a pod that is to share it;
// nil for another.
func findHostNetwork(wanted bool) (*network.HostNetwork, error) {
	if !wanted {
		return nil, nil //nolint:nilnil // none
	}
	namespace, err := network.OpenNamespace("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	host, err := namespace.Host()
	return host, errors.Join(err, namespace.Close())
}
