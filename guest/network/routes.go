package network

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// slot is the same for routes of which the kernel uses one.
func slot(r *protocol.NetworkRoute) string {
	return fmt.Sprintf("route %d %d %x/%d %d %d", r.GetFamily(), r.GetTable(), r.GetDestination(), r.GetPrefixLength(), r.GetPriority(), r.GetTos())
}

// routeEntry describes a route; shared tells that the request has others in its
// slot.
func routeEntry(r *protocol.NetworkRoute, links map[string]netlink.Link, shared bool) (*entry, error) {
	route, err := route(r, links)
	if err != nil {
		return nil, err
	}
	key, what := &strings.Builder{}, &strings.Builder{}
	fmt.Fprint(key, "route")
	fmt.Fprintf(what, "the route to %s", destination(r))
	for _, hop := range r.GetHops() {
		if link := links[hop.GetInterface()]; link != nil {
			fmt.Fprintf(key, " %d", link.Attrs().Index)
		}
		if len(hop.GetGateway()) > 0 {
			fmt.Fprintf(what, " via %v", net.IP(hop.GetGateway()))
		}
		if hop.GetInterface() != "" {
			fmt.Fprintf(what, " on interface %s", hop.GetInterface())
		}
	}
	fmt.Fprintf(key, " %s", message(r))
	set := netlink.RouteReplace
	if shared {
		set = netlink.RouteAppend
	}
	return &entry{
		key: key.String(), slot: slot(r), what: what.String(),
		set: func() error {
			if err := set(route); !errors.Is(err, unix.EEXIST) {
				return err
			}
			return nil // there, though not the first in its slot
		},
		remove: func() error { return netlink.RouteDel(route) },
	}, nil
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

func neighbourEntry(neighbour *protocol.NetworkNeighbour, index int) *entry {
	neigh := neighbourOf(neighbour, index)
	return &entry{
		key:    fmt.Sprintf("neighbour %d %x %v", index, neighbour.GetAddress(), neighbour.GetProxy()),
		owner:  ownedBy(neighbour.GetInterface()),
		what:   fmt.Sprintf("neighbour %v", net.IP(neighbour.GetAddress())),
		set:    func() error { return netlink.NeighSet(neigh) },
		remove: func() error { return netlink.NeighDel(neigh) },
	}
}

func neighbourOf(neighbour *protocol.NetworkNeighbour, index int) *netlink.Neigh {
	family := unix.AF_INET6
	if len(neighbour.GetAddress()) == net.IPv4len {
		family = unix.AF_INET
	}
	result := &netlink.Neigh{
		LinkIndex: index, Family: family, State: unix.NUD_PERMANENT,
		IP: neighbour.GetAddress(), HardwareAddr: neighbour.GetMac(),
	}
	if neighbour.GetProxy() {
		result.Flags, result.HardwareAddr = unix.NTF_PROXY, nil
	}
	return result
}
