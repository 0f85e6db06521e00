package network

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// ErrInvalid is wrapped by errors about requests that no namespace can have
// given rise to.
var ErrInvalid = errors.New("invalid network")

const (
	maxName    = unix.IFNAMSIZ - 1
	macBytes   = 6
	maxMTU     = 65536
	maxWeight  = 256 // of a hop
	loopback   = "lo"
	maxEntries = 16384 // of each kind: what a call may take is bounded
	maxMetrics = 64    // of a route; the kernel knows 17
	// maxCongestionControl is TCP_CA_NAME_MAX without the end of the text.
	maxCongestionControl = 15
)

func validate(r *protocol.SetNetworkRequest) error {
	if max(len(r.GetInterfaces()), len(r.GetRoutes()), len(r.GetNeighbours()), len(r.GetRules())) > maxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrInvalid, maxEntries)
	}
	names, devices := map[string]bool{}, map[string]bool{}
	for _, i := range r.GetInterfaces() {
		if err := validateInterface(i); err != nil {
			return fmt.Errorf("%w: interface %q: %w", ErrInvalid, i.GetName(), err)
		}
		if names[i.GetName()] || len(i.GetDeviceMac()) > 0 && devices[string(i.GetDeviceMac())] {
			return fmt.Errorf("%w: interface %q: it, or its NIC, is there twice", ErrInvalid, i.GetName())
		}
		names[i.GetName()], devices[string(i.GetDeviceMac())] = true, true
	}
	for _, route := range r.GetRoutes() {
		if err := validateRoute(route); err != nil {
			return fmt.Errorf("%w: route to %s: %w", ErrInvalid, destination(route), err)
		}
	}
	for _, n := range r.GetNeighbours() {
		if validName(n.GetInterface()) != nil || !isAddress(n.GetAddress()) || !n.GetProxy() && len(n.GetMac()) != macBytes {
			return fmt.Errorf("%w: neighbour %v of interface %q", ErrInvalid, net.IP(n.GetAddress()), n.GetInterface())
		}
	}
	for _, rule := range r.GetRules() {
		if err := validateRule(rule); err != nil {
			return fmt.Errorf("%w: rule of priority %d: %w", ErrInvalid, rule.GetPriority(), err)
		}
	}
	return nil
}

func validateInterface(i *protocol.NetworkInterface) error {
	if err := validName(i.GetName()); err != nil {
		return err
	}
	if len(i.GetDeviceMac()) == 0 {
		if i.GetName() != loopback {
			return errors.New("it has no NIC")
		}
	} else {
		switch {
		case i.GetName() == loopback:
			return errors.New("loopback has no NIC")
		case len(i.GetDeviceMac()) != macBytes || len(i.GetMac()) != macBytes:
			return errors.New("a MAC address has 6 bytes")
		case i.GetMtu() == 0 || i.GetMtu() > maxMTU:
			return fmt.Errorf("its MTU is %d", i.GetMtu())
		}
	}
	for _, a := range i.GetAddresses() {
		if !isAddress(a.GetAddress()) || int(a.GetPrefixLength()) > 8*len(a.GetAddress()) ||
			len(a.GetPeer()) != 0 && len(a.GetPeer()) != len(a.GetAddress()) ||
			len(a.GetBroadcast()) != 0 && len(a.GetBroadcast()) != len(a.GetAddress()) ||
			len(a.GetLabel()) > maxName || a.GetScope() > math.MaxUint8 {
			return fmt.Errorf("address %v/%d", net.IP(a.GetAddress()), a.GetPrefixLength())
		}
	}
	return nil
}

func validName(name string) error {
	if name == "" || len(name) > maxName || name == "." || name == ".." ||
		strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) || r == 0 }) {
		return errors.New("no name that an interface can have")
	}
	return nil
}

func validateRoute(r *protocol.NetworkRoute) error {
	size := familyBytes(r.GetFamily())
	if size == 0 {
		return fmt.Errorf("address family %d", r.GetFamily())
	}
	if !fits(r.GetDestination(), r.GetPrefixLength(), size) {
		return fmt.Errorf("destination of %d bytes", len(r.GetDestination()))
	}
	if len(r.GetSource()) != 0 && len(r.GetSource()) != size {
		return fmt.Errorf("source of %d bytes", len(r.GetSource()))
	}
	// The kernel's own messages have a byte for each of these.
	if max(r.GetTos(), r.GetType(), r.GetScope(), r.GetProtocol()) > math.MaxUint8 {
		return fmt.Errorf("service type %d, type %d, scope %d or protocol %d", r.GetTos(), r.GetType(), r.GetScope(), r.GetProtocol())
	}
	if len(r.GetMetrics()) > maxMetrics || len(r.GetCongestionControl()) > maxCongestionControl || r.GetPreference() > math.MaxUint8 ||
		slices.ContainsFunc(r.GetMetrics(), func(m *protocol.NetworkMetric) bool { return m.GetType() == 0 || m.GetType() > math.MaxUint8 }) {
		return errors.New("its metrics")
	}
	for _, hop := range r.GetHops() {
		// An IPv4 route may have a gateway of IPv6, not the other way around.
		if len(hop.GetGateway()) != 0 && len(hop.GetGateway()) != size && len(hop.GetGateway()) != net.IPv6len {
			return fmt.Errorf("gateway of %d bytes", len(hop.GetGateway()))
		}
		if hop.GetWeight() > maxWeight {
			return fmt.Errorf("weight %d", hop.GetWeight())
		}
		if hop.GetInterface() != "" {
			if err := validName(hop.GetInterface()); err != nil {
				return err
			}
		}
	}
	return nil
}

func validateRule(r *protocol.NetworkRule) error {
	size := familyBytes(r.GetFamily())
	if size == 0 {
		return fmt.Errorf("address family %d", r.GetFamily())
	}
	if !fits(r.GetSource(), r.GetSourcePrefixLength(), size) || !fits(r.GetDestination(), r.GetDestinationPrefixLength(), size) {
		return fmt.Errorf("source of %d or destination of %d bytes", len(r.GetSource()), len(r.GetDestination()))
	}
	if r.GetTos() > math.MaxUint8 {
		return fmt.Errorf("service type %d", r.GetTos())
	}
	switch r.GetType() {
	case unix.FR_ACT_UNSPEC, unix.FR_ACT_TO_TBL:
		if r.GetTable() == 0 { // the kernel would choose an empty one
			return errors.New("it has neither a table nor another action")
		}
	case unix.FR_ACT_NOP, unix.FR_ACT_BLACKHOLE, unix.FR_ACT_UNREACHABLE, unix.FR_ACT_PROHIBIT:
	default:
		return fmt.Errorf("action %d", r.GetType()) // one that goes to another rule does not say to which
	}
	for _, name := range []string{r.GetInputInterface(), r.GetOutputInterface()} {
		if name == "" {
			continue
		}
		if err := validName(name); err != nil {
			return err
		}
	}
	return nil
}

func familyBytes(family uint32) int {
	switch family {
	case unix.AF_INET:
		return net.IPv4len
	case unix.AF_INET6:
		return net.IPv6len
	default:
		return 0
	}
}

func isAddress(address []byte) bool {
	return len(address) == net.IPv4len || len(address) == net.IPv6len
}

// fits tells whether a prefix, which may be empty, is of a family.
func fits(address []byte, prefix uint32, size int) bool {
	if len(address) == 0 {
		return prefix == 0
	}
	return len(address) == size && int(prefix) <= 8*size
}
