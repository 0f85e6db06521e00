package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/loopback"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor/api"
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
// of the pod's first container is in, or brings what another container adds to
// the pod's network: its nameservers on loopback.
func (s *server) joinNetwork(c *container) error {
	if s.networkModel == config.NetworkNone && !s.hostNetwork {
		return nil
	}
	err := s.changeNetwork(c)
	var stage *virtcontainers.StageError
	if err != nil && !errors.As(err, &stage) {
		err = &virtcontainers.StageError{Stage: virtcontainers.StageNetwork, Err: err}
	}
	return err
}

func (s *server) changeNetwork(c *container) error {
	s.services.Lock()
	defer s.services.Unlock()
	services, err := s.loopbackServices()
	if err != nil {
		return err
	}
	if c.id != s.id {
		return s.sandbox.SetLoopbackServices(services)
	}
	c.mu.Lock()
	pid, start := c.state.StandInPID, c.state.StandInStartTime
	c.mu.Unlock()
	namespace, err := network.OpenNamespace("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err == nil && !store.Alive(pid, start) { // the pid may be another's by now
		err = errors.Join(errors.New("its stand-in has ended"), namespace.Close())
	}
	if err != nil {
		return fmt.Errorf("find the pod's network: %w", err)
	}
	if err := s.sandbox.StartLoopback(namespace.File(), services, s.hostNetwork); err != nil {
		return errors.Join(err, namespace.Close())
	}
	if s.hostNetwork {
		return namespace.Close()
	}
	return s.sandbox.JoinNetwork(namespace, s.followServices)
}

// loopbackServices are those of the configuration, and the nameservers of the
// containers' resolv.conf that are on loopback. A caller may write that file
// until the container starts, and when it changes the pod's network: docker
// makes its nameserver that of a running container. The caller holds services,
// so that what was read first is set first.
func (s *server) loopbackServices() ([]loopback.Service, error) {
	services, err := loopback.ParseServices(s.loopbackPorts)
	if err != nil {
		return nil, fmt.Errorf("loopback_ports: %w", err)
	}
	if s.hostNetwork {
		// The guest may write such a file, and would choose among the host's own
		// servers: only the configuration does.
		return services, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.resolvConf == nil {
			continue
		}
		found, err := nameservers(c.resolvConf)
		if err != nil {
			s.log.Warn("a container's resolv.conf was not read: it may not reach nameservers on loopback", "container", c.id, "error", err)
			continue
		}
		services = loopback.Merge(services, found...)
	}
	slices.SortFunc(services, func(a, b loopback.Service) int { return strings.Compare(a.String(), b.String()) })
	return services, nil
}

// refreshServices looks at the containers' resolv.conf once more.
func (s *server) refreshServices() error {
	if s.networkModel == config.NetworkNone && !s.hostNetwork {
		return nil
	}
	s.services.Lock()
	defer s.services.Unlock()
	services, err := s.loopbackServices()
	if err == nil {
		err = s.sandbox.SetLoopbackServices(services)
	}
	if err != nil {
		return &virtcontainers.StageError{Stage: virtcontainers.StageNetwork, Err: err}
	}
	return nil
}

// followServices is refreshServices after a change of the pod's network.
func (s *server) followServices() {
	if err := s.refreshServices(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Warn("nameservers on loopback that a container was given may not be reached", "error", err)
	}
}

// nameservers reads a resolv.conf that is open with O_PATH.
func nameservers(conf *os.File) ([]loopback.Service, error) {
	// O_NONBLOCK: it may be a FIFO.
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", conf.Fd()), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("it is no file"))
	}
	return loopback.ServicesOfResolvConf(file), nil
}

// keepResolvConf keeps the file that a mount of the request shows, to look for
// nameservers in it.
func keepResolvConf(request *api.CreateContainerRequest, files []*os.File) (*os.File, error) {
	for i, mount := range request.GetMounts() {
		if name := request.GetResolvConf(); name == "" || mount.GetName() != name {
			continue
		}
		fd, err := unix.FcntlInt(files[i].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("keep the container's resolv.conf: %w", err)
		}
		return os.NewFile(uintptr(fd), "resolv.conf"), nil
	}
	return nil, nil //nolint:nilnil // it has none
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
