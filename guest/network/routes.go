package network

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
)

// slot is the same for routes of which the kernel uses one.
func slot(r *protocol.NetworkRoute) string {
	return fmt.Sprintf("route %d %d %x/%d %d %d", r.GetFamily(), r.GetTable(), r.GetDestination(), r.GetPrefixLength(), r.GetPriority(), r.GetTos())
}

// routeEntry describes a route; shared tells that the request has others in its
// slot.
func (n *Network) routeEntry(r *protocol.NetworkRoute, links map[string]netlink.Link, shared bool) (*entry, error) {
	key, what := &strings.Builder{}, &strings.Builder{}
	fmt.Fprint(key, "route")
	fmt.Fprintf(what, "the route to %s", destination(r))
	for _, hop := range r.GetHops() {
		if link := links[hop.GetInterface()]; link != nil {
			fmt.Fprintf(key, " %d", link.Attrs().Index)
		} else if hop.GetInterface() != "" {
			return nil, fmt.Errorf("there is no interface %s", hop.GetInterface())
		}
		if len(hop.GetGateway()) > 0 {
			fmt.Fprintf(what, " via %v", net.IP(hop.GetGateway()))
		}
		if hop.GetInterface() != "" {
			fmt.Fprintf(what, " on interface %s", hop.GetInterface())
		}
	}
	fmt.Fprintf(key, " %s", message(r))
	flags := unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	if shared {
		flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	}
	accepted := r
	return &entry{
		key: key.String(), slot: slot(r), what: what.String(),
		set: func() error {
			err := changeRoute(accepted, links, unix.RTM_NEWROUTE, flags)
			if errors.Is(err, unix.EINVAL) && accepted.GetCongestionControl() != "" {
				// The guest's kernel need not have what the host's has. It is a
				// matter of speed, not of where packets go.
				n.log.Warn("a route's congestion control is not the host's", "route", what.String(), "lacking", r.GetCongestionControl())
				accepted = proto.CloneOf(r)
				accepted.CongestionControl = ""
				err = changeRoute(accepted, links, unix.RTM_NEWROUTE, flags)
			}
			if errors.Is(err, unix.EEXIST) {
				return nil // there, though not the first in its slot
			}
			return err
		},
		remove: func() error { return changeRoute(accepted, links, unix.RTM_DELROUTE, 0) },
	}, nil
}

func destination(r *protocol.NetworkRoute) string {
	if len(r.GetDestination()) == 0 {
		return "default"
	}
	return fmt.Sprintf("%v/%d", net.IP(r.GetDestination()), r.GetPrefixLength())
}

// changeRoute adds or removes a route over interfaces that links has. It is not
// the library's, which cannot say of more than one metric that it is locked.
func changeRoute(r *protocol.NetworkRoute, links map[string]netlink.Link, operation, flags int) error {
	header := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(r.GetFamily()), Dst_len: uint8(r.GetPrefixLength()), Tos: uint8(r.GetTos()), Scope: uint8(r.GetScope()),
		Protocol: uint8(cmp.Or(r.GetProtocol(), unix.RTPROT_BOOT)), Type: uint8(cmp.Or(r.GetType(), unix.RTN_UNICAST)),
	}}
	request := nl.NewNetlinkRequest(operation, flags|unix.NLM_F_ACK)
	request.AddData(header)
	attributes := &attributes{}
	attributes.number(unix.RTA_TABLE, cmp.Or(r.GetTable(), unix.RT_TABLE_MAIN))
	attributes.bytes(unix.RTA_DST, r.GetDestination())
	attributes.bytes(unix.RTA_PREFSRC, r.GetSource())
	if r.GetPriority() != 0 {
		attributes.number(unix.RTA_PRIORITY, r.GetPriority())
	}
	if r.GetPreference() != 0 {
		attributes.bytes(unix.RTA_PREF, []byte{uint8(r.GetPreference())})
	}
	attributes.bytes(unix.RTA_METRICS, metrics(r))
	switch hops := r.GetHops(); len(hops) {
	case 0:
	case 1:
		header.Flags = uint32(hopFlags(hops[0]))
		if link := links[hops[0].GetInterface()]; link != nil {
			attributes.number(unix.RTA_OIF, uint32(link.Attrs().Index))
		}
		attributes.gateway(hops[0], r.GetFamily())
	default:
		attributes.bytes(unix.RTA_MULTIPATH, multipath(r, links))
	}
	for _, attribute := range *attributes {
		request.AddData(attribute)
	}
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// attributes are those of a message to the kernel.
type attributes []nl.NetlinkRequestData

// bytes adds nothing for an empty value.
func (a *attributes) bytes(attribute int, value []byte) {
	if len(value) > 0 {
		*a = append(*a, nl.NewRtAttr(attribute, value))
	}
}

func (a *attributes) number(attribute int, value uint32) {
	a.bytes(attribute, binary.NativeEndian.AppendUint32(nil, value))
}

func (a *attributes) gateway(hop *protocol.NetworkHop, family uint32) {
	switch gateway := hop.GetGateway(); len(gateway) {
	case familyBytes(family):
		a.bytes(unix.RTA_GATEWAY, gateway)
	case net.IPv6len:
		a.bytes(unix.RTA_VIA, append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), gateway...))
	}
}

func (a *attributes) serialize() []byte {
	var data []byte
	for _, attribute := range *a {
		data = append(data, attribute.Serialize()...)
		for len(data)%unix.NLA_ALIGNTO != 0 {
			data = append(data, 0)
		}
	}
	return data
}

func metrics(r *protocol.NetworkRoute) []byte {
	list := &attributes{}
	for _, m := range r.GetMetrics() {
		list.number(int(m.GetType()), m.GetValue())
	}
	if r.GetCongestionControl() != "" {
		list.bytes(unix.RTAX_CC_ALGO, nl.ZeroTerminated(r.GetCongestionControl()))
	}
	return list.serialize()
}

func multipath(r *protocol.NetworkRoute, links map[string]netlink.Link) []byte {
	var data []byte
	for _, hop := range r.GetHops() {
		next := &nl.RtNexthop{RtNexthop: unix.RtNexthop{Flags: hopFlags(hop), Hops: uint8(max(1, hop.GetWeight()) - 1)}}
		if link := links[hop.GetInterface()]; link != nil {
			next.Ifindex = int32(link.Attrs().Index)
		}
		gateway := &attributes{}
		gateway.gateway(hop, r.GetFamily())
		next.Children = *gateway
		data = append(data, next.Serialize()...)
	}
	return data
}

func hopFlags(hop *protocol.NetworkHop) uint8 {
	if hop.GetOnLink() {
		return unix.RTNH_F_ONLINK
	}
	return 0
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
	if neighbour.GetRouter() {
		result.Flags |= unix.NTF_ROUTER
	}
	return result
}
