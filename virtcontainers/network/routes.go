package network

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// scanRoutes lists the routes that the guest's kernel would not make by itself
// for the same addresses. names has the interfaces that the guest has.
func (n *Namespace) scanRoutes(names map[int]string) ([]*protocol.NetworkRoute, error) {
	// A table of 0 stands for all.
	list, err := n.netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list the routes of network namespace %s: %w", n.file.Name(), err)
	}
	var routes []*protocol.NetworkRoute
	for i := range list {
		if !isConfigured(&list[i]) {
			continue
		}
		if route := describeRoute(&list[i], names); route != nil {
			routes = append(routes, route)
		}
	}
	return routes, nil
}

func isConfigured(r *netlink.Route) bool {
	if r.Family != unix.AF_INET && r.Family != unix.AF_INET6 {
		return false // of a multicast router
	}
	switch r.Protocol {
	case unix.RTPROT_KERNEL, unix.RTPROT_RA, unix.RTPROT_REDIRECT:
		return false // follow from addresses, or from what the guest hears itself
	}
	if r.Table == unix.RT_TABLE_LOCAL && r.Type != unix.RTN_LOCAL {
		return false
	}
	switch r.Type {
	case unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		return false
	}
	return true
}

// describeRoute returns nil for a route over interfaces that the guest lacks.
func describeRoute(r *netlink.Route, names map[int]string) *protocol.NetworkRoute {
	route := &protocol.NetworkRoute{
		Family: uint32(r.Family), Table: uint32(r.Table), Type: uint32(r.Type), Scope: uint32(r.Scope),
		Protocol: uint32(r.Protocol), Priority: uint32(r.Priority), Tos: uint32(r.Tos), Source: canonical(r.Src),
		Mtu: uint32(r.MTU), MtuLocked: r.MTULock,
	}
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			route.Destination, route.PrefixLength = sized(r.Dst.IP, r.Family), uint32(ones)
		}
	}
	switch r.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return route // IPv6 has them on lo
	}
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Flags: r.Flags, Via: r.Via}}
	}
	for _, h := range hops {
		name, known := names[h.LinkIndex]
		if h.LinkIndex != 0 && !known {
			continue
		}
		hop := &protocol.NetworkHop{Interface: name, Gateway: sized(h.Gw, r.Family), OnLink: h.Flags&unix.RTNH_F_ONLINK != 0}
		if via, ok := h.Via.(*netlink.Via); ok {
			hop.Gateway = sized(via.Addr, via.AddrFamily)
		}
		if len(r.MultiPath) > 0 {
			hop.Weight = uint32(h.Hops) + 1
		}
		route.Hops = append(route.Hops, hop)
	}
	if len(route.Hops) == 0 {
		return nil
	}
	return route
}

// sized is an address with as many bytes as its family has; nil for none.
func sized(ip net.IP, family int) []byte {
	if len(ip) == 0 {
		return nil
	}
	if family == unix.AF_INET {
		return ip.To4()
	}
	return ip.To16()
}

// scanNeighbours lists the static entries.
func (n *Namespace) scanNeighbours(names map[int]string) ([]*protocol.NetworkNeighbour, error) {
	var neighbours []*protocol.NetworkNeighbour
	add := func(list []netlink.Neigh, proxy bool) {
		for _, entry := range list {
			name, known := names[entry.LinkIndex]
			if !known || !proxy && entry.State&unix.NUD_PERMANENT == 0 || entry.IP.IsMulticast() || entry.IP == nil {
				continue
			}
			neighbour := &protocol.NetworkNeighbour{Interface: name, Address: canonical(entry.IP), Proxy: proxy}
			if !proxy {
				neighbour.Mac = entry.HardwareAddr
			}
			neighbours = append(neighbours, neighbour)
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := n.netlink.NeighList(0, family)
		if isMissing(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the neighbours of network namespace %s: %w", n.file.Name(), err)
		}
		add(list, false)
		if list, err = n.netlink.NeighProxyList(0, family); err != nil {
			return nil, fmt.Errorf("list the proxied neighbours of network namespace %s: %w", n.file.Name(), err)
		}
		add(list, true)
	}
	return neighbours, nil
}

// isMissing tells that the host's kernel lacks a protocol or routing rules.
func isMissing(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)
}

// The rules that every namespace has from the start, by their priorities.
const (
	localRule   = 0
	mainRule    = 32766
	defaultRule = 32767
)

// scanRules lists the policy routing rules that somebody has added, and describes
// those that the guest cannot be told of.
func (n *Namespace) scanRules() (rules []*protocol.NetworkRule, leftOut []string, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := n.netlink.RuleList(family)
		if isMissing(err) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list the routing rules of network namespace %s: %w", n.file.Name(), err)
		}
		details, err := n.ruleDetails(family)
		if err != nil {
			return nil, nil, err
		}
		if len(details) != len(list) {
			return nil, nil, netlink.ErrDumpInterrupted // a rule has come or gone meanwhile
		}
		for i, r := range list {
			r.Type = details[i].action
			switch {
			case r.Priority == localRule && r.Table == unix.RT_TABLE_LOCAL,
				r.Priority == mainRule && r.Table == unix.RT_TABLE_MAIN,
				r.Priority == defaultRule && r.Table == unix.RT_TABLE_DEFAULT:
				continue
			}
			if why := details[i].unknown; why != "" {
				leftOut = append(leftOut, fmt.Sprintf("%v (%s)", r, why))
				continue
			}
			rules = append(rules, describeRule(&r, family))
		}
	}
	return rules, leftOut, nil
}

// ruleDetail is what the library leaves out of a rule that it lists.
type ruleDetail struct {
	action uint8
	// unknown names what the guest cannot be told of: without it the rule would be
	// for more than it is on the host. Empty for nothing.
	unknown string
}

// ruleDetails lists them in the kernel's order.
func (n *Namespace) ruleDetails(family int) (details []ruleDetail, err error) {
	err = n.Do(func() error {
		request := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
		request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}})
		list, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
		if err != nil {
			return fmt.Errorf("list the actions of routing rules: %w", err)
		}
		for _, rule := range list {
			detail, err := parseRule(rule)
			if err != nil {
				return err
			}
			details = append(details, detail)
		}
		return nil
	})
	return details, err
}

func parseRule(rule []byte) (ruleDetail, error) {
	message := nl.DeserializeRtMsg(rule)
	attributes, err := nl.ParseRouteAttr(rule[message.Len():])
	if err != nil {
		return ruleDetail{}, fmt.Errorf("read a routing rule: %w", err)
	}
	detail := ruleDetail{action: message.Type}
	for _, a := range attributes {
		if name := unknownSelector(a.Attr.Type, a.Value); name != "" {
			detail.unknown = name
			return detail, nil
		}
	}
	switch message.Type {
	case unix.FR_ACT_UNSPEC, unix.FR_ACT_TO_TBL, unix.FR_ACT_NOP, unix.FR_ACT_BLACKHOLE, unix.FR_ACT_UNREACHABLE, unix.FR_ACT_PROHIBIT:
	case unix.FR_ACT_GOTO:
		detail.unknown = "goto"
	default:
		detail.unknown = fmt.Sprintf("action %d", message.Type)
	}
	return detail, nil
}

// unknownSelector names an attribute of a rule that protocol.NetworkRule has no
// place for; empty for one that it has, or that selects nothing.
func unknownSelector(attribute uint16, value []byte) string {
	switch attribute {
	case nl.FRA_DST, nl.FRA_SRC, nl.FRA_IIFNAME, nl.FRA_OIFNAME, nl.FRA_PRIORITY, nl.FRA_FWMARK, nl.FRA_FWMASK, nl.FRA_TABLE,
		nl.FRA_SUPPRESS_PREFIXLEN, nl.FRA_FLOW, nl.FRA_PAD, nl.FRA_PROTOCOL:
		return ""
	case nl.FRA_SUPPRESS_IFGROUP:
		if bytes.Equal(value, []byte{0xff, 0xff, 0xff, 0xff}) { // none
			return ""
		}
		return "suppress_ifgroup"
	}
	// The kernel lists none of these that was not given: 0 is a value too.
	names := map[uint16]string{
		nl.FRA_GOTO: "goto", nl.FRA_TUN_ID: "tun_id", nl.FRA_L3MDEV: "l3mdev", nl.FRA_UID_RANGE: "uidrange",
		nl.FRA_IP_PROTO: "ipproto", nl.FRA_SPORT_RANGE: "sport", nl.FRA_DPORT_RANGE: "dport",
	}
	return cmp.Or(names[attribute], fmt.Sprintf("attribute %d", attribute))
}

func describeRule(r *netlink.Rule, family int) *protocol.NetworkRule {
	rule := &protocol.NetworkRule{
		Family: uint32(family), Priority: uint32(max(0, r.Priority)), Table: uint32(r.Table), Type: uint32(r.Type),
		Invert: r.Invert, InputInterface: r.IifName, OutputInterface: r.OifName, Mark: r.Mark, Tos: uint32(r.Tos),
	}
	if r.Mask != nil {
		rule.Mask = *r.Mask
	}
	if r.SuppressPrefixlen >= 0 {
		rule.SuppressPrefixLengthPlusOne = uint32(r.SuppressPrefixlen) + 1
	}
	if r.Src != nil {
		ones, _ := r.Src.Mask.Size()
		rule.Source, rule.SourcePrefixLength = sized(r.Src.IP, family), uint32(ones)
	}
	if r.Dst != nil {
		ones, _ := r.Dst.Mask.Size()
		rule.Destination, rule.DestinationPrefixLength = sized(r.Dst.IP, family), uint32(ones)
	}
	return rule
}
