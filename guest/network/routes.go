package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// setRoutes adds the routes in rounds, as long as one succeeds: a gateway must
// be reachable by another route.
func (n *Network) setRoutes(links map[string]netlink.Link, request *protocol.SetNetworkRequest) error {
	type pending struct {
		message *protocol.NetworkRoute
		route   *netlink.Route
		err     error
	}
	var left []pending
	for _, r := range request.GetRoutes() {
		route, err := route(r, links)
		if err != nil {
			return fmt.Errorf("route to %s: %w", destination(r), err)
		}
		left = append(left, pending{message: r, route: route})
	}
	for len(left) > 0 {
		var again []pending
		for _, p := range left {
			if p.err = netlink.RouteReplace(p.route); p.err != nil {
				again = append(again, p)
			}
		}
		if len(again) == len(left) {
			break
		}
		left = again
	}
	var errs []error
	for _, p := range left {
		where := ""
		for _, hop := range p.message.GetHops() {
			where += fmt.Sprintf(" via %v on interface %s", net.IP(hop.GetGateway()), hop.GetInterface())
		}
		errs = append(errs, fmt.Errorf("set the route to %s%s: %w", destination(p.message), where, p.err))
	}
	return errors.Join(errs...)
}

func destination(r *protocol.NetworkRoute) string {
	if len(r.GetDestination()) == 0 {
		return "default"
	}
	return fmt.Sprintf("%v/%d", net.IP(r.GetDestination()), r.GetPrefixLength())
}

func route(r *protocol.NetworkRoute, links map[string]netlink.Link) (*netlink.Route, error) {
	size := familyBytes(r.GetFamily())
	result := &netlink.Route{
		Family: int(r.GetFamily()), Table: int(r.GetTable()), Type: int(r.GetType()), Scope: netlink.Scope(r.GetScope()),
		Protocol: netlink.RouteProtocol(r.GetProtocol()), Priority: int(r.GetPriority()), Tos: int(r.GetTos()),
		Src: r.GetSource(), MTU: int(r.GetMtu()), MTULock: r.GetMtuLocked(),
		Dst: &net.IPNet{IP: r.GetDestination(), Mask: net.CIDRMask(int(r.GetPrefixLength()), 8*size)},
	}
	if len(r.GetDestination()) == 0 {
		result.Dst = &net.IPNet{IP: make(net.IP, size), Mask: make(net.IPMask, size)}
	}
	var hops []*netlink.NexthopInfo
	for _, h := range r.GetHops() {
		hop := &netlink.NexthopInfo{}
		if h.GetInterface() != "" {
			link := links[h.GetInterface()]
			if link == nil {
				return nil, fmt.Errorf("there is no interface %s", h.GetInterface())
			}
			hop.LinkIndex = link.Attrs().Index
		}
		switch len(h.GetGateway()) {
		case 0:
		case size:
			hop.Gw = h.GetGateway()
		default:
			hop.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: h.GetGateway()}
		}
		if h.GetOnLink() {
			hop.Flags = int(netlink.FLAG_ONLINK)
		}
		if h.GetWeight() > 0 {
			hop.Hops = int(h.GetWeight()) - 1
		}
		hops = append(hops, hop)
	}
	switch len(hops) {
	case 0:
	case 1:
		result.LinkIndex, result.Gw, result.Via, result.Flags = hops[0].LinkIndex, hops[0].Gw, hops[0].Via, hops[0].Flags
	default:
		result.MultiPath = hops
	}
	return result, nil
}

func (n *Network) setNeighbours(links map[string]netlink.Link, request *protocol.SetNetworkRequest) error {
	var errs []error
	for _, neighbour := range request.GetNeighbours() {
		link := links[neighbour.GetInterface()]
		if link == nil {
			errs = append(errs, fmt.Errorf("neighbour %v: there is no interface %s", net.IP(neighbour.GetAddress()), neighbour.GetInterface()))
			continue
		}
		err := netlink.NeighSet(entry(neighbour, link))
		errs = append(errs, wrap(neighbour.GetInterface(), fmt.Sprintf("set neighbour %v", net.IP(neighbour.GetAddress())), err))
	}
	return errors.Join(errs...)
}

func entry(neighbour *protocol.NetworkNeighbour, link netlink.Link) *netlink.Neigh {
	family := unix.AF_INET6
	if len(neighbour.GetAddress()) == net.IPv4len {
		family = unix.AF_INET
	}
	result := &netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: family, State: unix.NUD_PERMANENT,
		IP: neighbour.GetAddress(), HardwareAddr: neighbour.GetMac(),
	}
	if neighbour.GetProxy() {
		result.Flags, result.HardwareAddr = unix.NTF_PROXY, nil
	}
	return result
}

// setRules adds the rules that were not there before: adding one twice gives
// two.
func (n *Network) setRules(before, request *protocol.SetNetworkRequest) error {
	var errs []error
	for _, rule := range missing(request.GetRules(), before.GetRules()) {
		if err := netlink.RuleAdd(policy(rule)); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("set the routing rule of priority %d: %w", rule.GetPriority(), err))
		}
	}
	return errors.Join(errs...)
}

func policy(r *protocol.NetworkRule) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Type = int(r.GetFamily()), int(r.GetPriority()), int(r.GetTable()), uint8(r.GetType())
	rule.Invert, rule.IifName, rule.OifName = r.GetInvert(), r.GetInputInterface(), r.GetOutputInterface()
	rule.Mark, rule.Tos = r.GetMark(), uint(r.GetTos())
	if r.GetMask() != 0 {
		mask := r.GetMask()
		rule.Mask = &mask
	}
	if r.GetSuppressPrefixLengthPlusOne() > 0 {
		rule.SuppressPrefixlen = int(r.GetSuppressPrefixLengthPlusOne()) - 1
	}
	bits := 8 * familyBytes(r.GetFamily())
	if len(r.GetSource()) > 0 {
		rule.Src = &net.IPNet{IP: r.GetSource(), Mask: net.CIDRMask(int(r.GetSourcePrefixLength()), bits)}
	}
	if len(r.GetDestination()) > 0 {
		rule.Dst = &net.IPNet{IP: r.GetDestination(), Mask: net.CIDRMask(int(r.GetDestinationPrefixLength()), bits)}
	}
	return rule
}
