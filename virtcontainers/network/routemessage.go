package network

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

const (
	attributeNextHopID = 30 // RTA_NH_ID, linux/rtnetlink.h
	attributeTypeMask  = 0x3fff
)

// routeMessage is a route in the kernel's words. The library's Route lacks some
// of them: of the locks of metrics it knows those that stand alone.
type routeMessage struct {
	unix.RtMsg

	attributes map[uint16][]byte
}

func (n *Namespace) listRoutes() (routes []routeMessage, err error) {
	err = n.Do(func() error {
		request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_UNSPEC}})
		list, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
		if err != nil {
			return err
		}
		for _, data := range list {
			route, err := parseRoute(data)
			if err != nil {
				return err
			}
			routes = append(routes, route)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the routes of network namespace %s: %w", n.file.Name(), err)
	}
	return routes, nil
}

func parseRoute(data []byte) (routeMessage, error) {
	if len(data) < unix.SizeofRtMsg {
		return routeMessage{}, fmt.Errorf("read a route: it has %d bytes", len(data))
	}
	header := nl.DeserializeRtMsg(data)
	attributes, err := parseAttributes(data[header.Len():])
	return routeMessage{header.RtMsg, attributes}, err
}

func parseAttributes(data []byte) (map[uint16][]byte, error) {
	list, err := nl.ParseRouteAttr(data)
	if err != nil {
		return nil, fmt.Errorf("read a route: %w", err)
	}
	attributes := make(map[uint16][]byte, len(list))
	for _, a := range list {
		attributes[a.Attr.Type&attributeTypeMask] = a.Value
	}
	return attributes, nil
}

// number is an attribute of four bytes; 0 without it.
func (m *routeMessage) number(attribute uint16) uint32 { return number(m.attributes[attribute]) }

func number(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}

func (m *routeMessage) table() uint32 {
	if table := m.number(unix.RTA_TABLE); table != 0 {
		return table
	}
	return uint32(m.Table)
}

// unknown names what the guest cannot be told of, without which the route would
// be another one; empty for nothing.
func (m *routeMessage) unknown() string {
	_, through := m.attributes[unix.RTA_OIF]
	_, several := m.attributes[unix.RTA_MULTIPATH]
	_, object := m.attributes[attributeNextHopID]
	switch {
	case m.Src_len > 0:
		return "from"
	case m.attributes[unix.RTA_ENCAP] != nil || m.attributes[unix.RTA_ENCAP_TYPE] != nil:
		return "encap"
	case object && !through && !several:
		return "nhid" // a host that does not say what is behind it
	}
	return ""
}

// metrics are the route's, and its congestion control.
func (m *routeMessage) metrics() (metrics []*protocol.NetworkMetric, congestionControl string, err error) {
	list, err := nl.ParseRouteAttr(m.attributes[unix.RTA_METRICS])
	if err != nil {
		return nil, "", fmt.Errorf("read a route's metrics: %w", err)
	}
	for _, a := range list {
		kind := a.Attr.Type & attributeTypeMask
		if kind == unix.RTAX_CC_ALGO {
			congestionControl = nl.BytesToString(a.Value)
			continue
		}
		metrics = append(metrics, &protocol.NetworkMetric{Type: uint32(kind), Value: number(a.Value)})
	}
	return metrics, congestionControl, nil
}

// hop is one of a route's; index 0: its gateway decides.
type hop struct {
	index, flags, weight int
	attributes           map[uint16][]byte
}

func (m *routeMessage) hops() ([]hop, error) {
	several, ok := m.attributes[unix.RTA_MULTIPATH]
	if !ok {
		return []hop{{index: int(m.number(unix.RTA_OIF)), flags: int(m.Flags), attributes: m.attributes}}, nil
	}
	var hops []hop
	for rest := several; len(rest) > 0; {
		if len(rest) < unix.SizeofRtNexthop {
			return nil, fmt.Errorf("read a route's hops: %d bytes are left", len(rest))
		}
		header := nl.DeserializeRtNexthop(rest)
		length := int(header.RtNexthop.Len)
		if length < unix.SizeofRtNexthop || length > len(rest) {
			return nil, fmt.Errorf("read a route's hops: one has %d bytes", length)
		}
		attributes, err := parseAttributes(rest[unix.SizeofRtNexthop:length])
		if err != nil {
			return nil, err
		}
		hops = append(hops, hop{
			index: int(header.Ifindex), flags: int(header.Flags), weight: int(header.Hops) + 1, attributes: attributes,
		})
		rest = rest[length:]
	}
	return hops, nil
}

// gateway is of either family; nil without.
func (h *hop) gateway(family uint8) ([]byte, error) {
	if value, ok := h.attributes[unix.RTA_VIA]; ok {
		via := &netlink.Via{}
		if err := via.Decode(value); err != nil {
			return nil, fmt.Errorf("read a route's gateway: %w", err)
		}
		return sized(via.Addr, via.AddrFamily), nil
	}
	return sized(h.attributes[unix.RTA_GATEWAY], int(family)), nil
}
