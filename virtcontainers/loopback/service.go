package loopback

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"kata-runtime/guest/protocol"
)

// maxServices bounds a pod's services, as the agent does.
const maxServices = 64

// maxResolvConf bounds what is read of a resolv.conf, in bytes, and maxNameservers
// what is taken: a C library looks at three.
const (
	maxResolvConf  = 64 << 10
	maxNameservers = 8
	portDNS        = 53
)

// ErrService is wrapped by errors about a service that cannot be one.
var ErrService = errors.New("not a loopback service")

// Service is a server on loopback in the pod's network namespace on the host,
// which programs in the guest are to reach under the same address.
type Service struct {
	Network string // "tcp" or "udp"
	Address netip.AddrPort
}

// String is the form that ParseService reads.
func (s Service) String() string { return s.Network + ":" + s.Address.String() }

// check tells what is wrong.
func (s Service) check() error {
	if s.Network != "tcp" && s.Network != "udp" {
		return fmt.Errorf("%w: network %q is neither tcp nor udp", ErrService, s.Network)
	}
	if !s.Address.Addr().IsLoopback() || s.Address.Addr().Zone() != "" || s.Address.Addr().Is4In6() {
		return fmt.Errorf("%w: address %v is not of 127.0.0.0/8, and not ::1", ErrService, s.Address.Addr())
	}
	if s.Address.Port() == 0 {
		return fmt.Errorf("%w: there is no port 0", ErrService)
	}
	return nil
}

// ParseService reads "tcp:8080" (which is 127.0.0.1's), "udp:127.0.0.11:53" or
// "tcp:[::1]:9000". Its errors wrap ErrService.
func ParseService(text string) (Service, error) {
	network, address, found := strings.Cut(text, ":")
	if !found {
		return Service{}, fmt.Errorf("%w: %q has no network, such as tcp:8080", ErrService, text)
	}
	if !strings.Contains(address, ":") {
		address = "127.0.0.1:" + address
	}
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return Service{}, fmt.Errorf("%w: %q: %w", ErrService, text, err)
	}
	service := Service{Network: network, Address: addr}
	if err := service.check(); err != nil {
		return Service{}, fmt.Errorf("%q: %w", text, err)
	}
	return service, nil
}

// ParseServices reads a list of texts for ParseService, such as the option
// loopback_ports. Each service is returned once.
func ParseServices(texts []string) ([]Service, error) {
	var services []Service
	for _, text := range texts {
		service, err := ParseService(text)
		if err != nil {
			return nil, err
		}
		services = Merge(services, service)
	}
	if len(services) > maxServices {
		return nil, fmt.Errorf("%w: %d of them, at most %d", ErrService, len(services), maxServices)
	}
	return services, nil
}

// Merge appends those of more to services that are not there yet.
func Merge(services []Service, more ...Service) []Service {
	for _, service := range more {
		if !slices.Contains(services, service) {
			services = append(services, service)
		}
	}
	return services
}

// ServicesOfResolvConf returns the nameservers of a resolv.conf that are on
// loopback, as docker's embedded one is: in the guest nobody would answer there.
// What cannot be understood is passed over, as C libraries do.
func ServicesOfResolvConf(r io.Reader) []Service {
	var services []Service
	lines := bufio.NewScanner(io.LimitReader(r, maxResolvConf))
	for servers := 0; lines.Scan() && servers < maxNameservers; {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		servers++
		addr, err := netip.ParseAddr(fields[1])
		if err != nil {
			continue
		}
		for _, network := range []string{"udp", "tcp"} {
			service := Service{Network: network, Address: netip.AddrPortFrom(addr.Unmap(), portDNS)}
			if service.check() == nil {
				services = Merge(services, service)
			}
		}
	}
	return services
}

// Protocol is services as the agent is told of them.
func Protocol(services []Service) []*protocol.LoopbackService {
	list := make([]*protocol.LoopbackService, 0, len(services))
	for _, service := range services {
		list = append(list, &protocol.LoopbackService{
			Network: service.Network,
			Address: service.Address.Addr().AsSlice(),
			Port:    uint32(service.Address.Port()),
		})
	}
	return list
}
