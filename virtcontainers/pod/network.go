package pod

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/loopback"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/share"
)

// Network is what the pod's machine is connected with.
type Network int

const (
	// NetworkOwn is the namespace of the pod's first container, or of JoinNetwork.
	NetworkOwn Network = iota
	// NetworkNone is nothing.
	NetworkNone
	// NetworkHost is the host's, by way of a network in user space; of the host's
	// loopback only what the configuration names.
	NetworkHost
)

// JoinNetwork connects a pod that has no first container with a namespace, which
// it takes over.
func (p *Pod) JoinNetwork(namespace *network.Namespace) error { return p.joinNetwork(namespace) }

// joinNetwork connects the machine with a namespace, or without one brings what
// another container adds to the pod's network: its nameservers on loopback.
func (p *Pod) joinNetwork(namespace *network.Namespace) error {
	if p.options.Network == NetworkNone {
		if namespace != nil {
			return namespace.Close()
		}
		return nil
	}
	err := p.changeNetwork(namespace)
	var stage *virtcontainers.StageError
	if err != nil && !errors.As(err, &stage) {
		err = &virtcontainers.StageError{Stage: virtcontainers.StageNetwork, Err: err}
	}
	return err
}

func (p *Pod) changeNetwork(namespace *network.Namespace) error {
	p.services.Lock()
	defer p.services.Unlock()
	services := p.loopbackServices()
	if namespace == nil {
		return p.sandbox.SetLoopbackServices(services)
	}
	hosts := p.options.Network == NetworkHost
	if err := p.sandbox.StartLoopback(namespace.File(), services, hosts); err != nil {
		return errors.Join(err, namespace.Close())
	}
	if hosts {
		return namespace.Close()
	}
	return p.sandbox.JoinNetwork(namespace, p.followServices)
}

// loopbackServices are those of the configuration, and the nameservers of the
// containers' resolv.conf that are on loopback. A caller may write that file
// until the container starts, and when it changes the pod's network: docker
// makes its nameserver that of a running container. The caller holds services,
// so that what was read first is set first.
func (p *Pod) loopbackServices() []loopback.Service {
	services := slices.Clone(p.options.Loopback)
	if p.options.Network == NetworkHost {
		// The guest may write such a file, and would choose among the host's own
		// servers: only the configuration does.
		return services
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.containers {
		if c.resolvConf == nil {
			continue
		}
		found, err := nameservers(c.resolvConf)
		if err != nil {
			p.log.Warn("a container's resolv.conf was not read: it may not reach nameservers on loopback", "container", c.id, "error", err)
			continue
		}
		services = loopback.Merge(services, found...)
	}
	slices.SortFunc(services, func(a, b loopback.Service) int { return strings.Compare(a.String(), b.String()) })
	return services
}

// refreshServices looks at the containers' resolv.conf once more.
func (p *Pod) refreshServices() error {
	if p.options.Network == NetworkNone {
		return nil
	}
	p.services.Lock()
	defer p.services.Unlock()
	if err := p.sandbox.SetLoopbackServices(p.loopbackServices()); err != nil {
		return &virtcontainers.StageError{Stage: virtcontainers.StageNetwork, Err: err}
	}
	return nil
}

// followServices is refreshServices after a change of the pod's network.
func (p *Pod) followServices() {
	if err := p.refreshServices(); err != nil && !errors.Is(err, net.ErrClosed) {
		p.log.Warn("nameservers on loopback that a container was given may not be reached", "error", err)
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

// keepResolvConf keeps the file that the mount of this name shows, to look for
// nameservers in it.
func keepResolvConf(name string, mounts []share.Mount) (*os.File, error) {
	for _, mount := range mounts {
		if name == "" || mount.Name != name {
			continue
		}
		fd, err := unix.FcntlInt(mount.Tree.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("keep the container's resolv.conf: %w", err)
		}
		return os.NewFile(uintptr(fd), "resolv.conf"), nil
	}
	return nil, nil //nolint:nilnil // it has none
}
