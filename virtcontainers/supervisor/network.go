package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/store"
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
func networkOptions(boot Boot, size hypervisor.Size, log *slog.Logger) (virtcontainers.NetworkOptions, []*hypervisor.NIC, error) {
	options := virtcontainers.NetworkOptions{
		Model:  network.Model(boot.Config.Runtime.NetworkModel),
		Queues: min(max(1, size.VCPUs), maxQueues), Vhost: !boot.Config.Hypervisor.DisableVhostNet,
	}
	if boot.HostNetwork || options.Model != network.ModelTC {
		return options, nil, nil
	}
	var nics []*hypervisor.NIC
	for i := range min(max(1, boot.Interfaces), maxColdNICs) {
		tap, err := network.NewTap(options.Queues, options.Vhost)
		if errors.Is(err, network.ErrNoTap) && boot.Interfaces == 0 {
			log.Debug("no spare interface", "reason", err)
			break
		}
		if err != nil {
			return options, nil, errors.Join(err, closeTaps(options.Spare))
		}
		options.Spare = append(options.Spare, tap)
		nics = append(nics, tap.NIC("nic"+strconv.Itoa(i)))
		if i < boot.Interfaces {
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

// joinNetwork connects the machine with the network namespace that the stand-in
// of the pod's first container is in.
func (s *server) joinNetwork(c *container) error {
	if c.id != s.id || s.hostNetwork || s.networkModel == config.NetworkNone {
		return nil
	}
	c.mu.Lock()
	pid, start := c.state.StandInPID, c.state.StandInStartTime
	c.mu.Unlock()
	namespace, err := network.OpenNamespace("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err == nil && !store.Alive(pid, start) { // the pid may be another's by now
		err = errors.Join(errors.New("its stand-in has ended"), namespace.Close())
	}
	if err != nil {
		return &virtcontainers.StageError{Stage: virtcontainers.StageNetwork, Err: fmt.Errorf("find the pod's network: %w", err)}
	}
	return s.sandbox.JoinNetwork(namespace)
}

// findHostNetwork describes the host's network, for a pod that is to share it;
// nil for another.
func findHostNetwork(boot Boot) (*network.HostNetwork, error) {
	if !boot.HostNetwork {
		return nil, nil //nolint:nilnil // none
	}
	namespace, err := network.OpenNamespace("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	host, err := namespace.Host()
	return host, errors.Join(err, namespace.Close())
}
