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
// for the same addresses, and describes those that the guest cannot be told of.
// names has the interfaces that the guest has.
func (n *Namespace) scanRoutes(names map[int]string) (routes []*protocol.NetworkRoute, leftOut []string, err error) {
	list, err := n.listRoutes()
	if err != nil {
		return nil, nil, err
	}
	for i := range list {
		m := &list[i]
		if !m.isConfigured() {
			continue
		}
		route, err := describeRoute(m, names)
		if err != nil {
			return nil, nil, err
		}
		if why := m.unknown(); route != nil && why != "" {
			leftOut = append(leftOut, fmt.Sprintf("route to %s of table %d (%s)", routeDestination(route), route.GetTable(), why))
		} else if route != nil {
			routes = append(routes, route)
		}
	}
	return routes, leftOut, nil
}

func routeDestination(r *protocol.NetworkRoute) string {
	if len(r.GetDestination()) == 0 {
		return "default"
	}
	return fmt.Sprintf("%v/%d", net.IP(r.GetDestination()), r.GetPrefixLength())
}

func (m *routeMessage) isConfigured() bool {
	if m.Family != unix.AF_INET && m.Family != unix.AF_INET6 {
		return false // of a multicast router
	}
	if m.Flags&unix.RTM_F_CLONED != 0 {
		return false // what the kernel has learnt of one destination
	}
	switch m.Protocol {
	case unix.RTPROT_KERNEL, unix.RTPROT_RA, unix.RTPROT_REDIRECT:
		return false // follow from addresses, or from what the guest hears itself
	}
	if m.table() == unix.RT_TABLE_LOCAL && m.Type != unix.RTN_LOCAL {
		return false
	}
	switch m.Type {
	case unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		return false
	}
	return true
}

// describeRoute returns nil for a route over interfaces that the guest lacks.
func describeRoute(m *routeMessage, names map[int]string) (*protocol.NetworkRoute, error) {
	route := &protocol.NetworkRoute{
		Family: uint32(m.Family), Table: m.table(), Type: uint32(m.Type), Scope: uint32(m.Scope),
		Protocol: uint32(m.Protocol), Priority: m.number(unix.RTA_PRIORITY), Tos: uint32(m.Tos),
		Source: sized(m.attributes[unix.RTA_PREFSRC], int(m.Family)),
	}
	if preference := m.attributes[unix.RTA_PREF]; len(preference) > 0 {
		route.Preference = uint32(preference[0])
	}
	var err error
	if route.Metrics, route.CongestionControl, err = m.metrics(); err != nil {
		return nil, err
	}
	if m.Dst_len > 0 {
		route.Destination, route.PrefixLength = sized(m.attributes[unix.RTA_DST], int(m.Family)), uint32(m.Dst_len)
	}
	switch m.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return route, nil // IPv6 has them on lo
	}
	hops, err := m.hops()
	if err != nil {
		return nil, err
	}
	for _, h := range hops {
		name, known := names[h.index]
		if h.index != 0 && !known {
			continue
		}
		hop := &protocol.NetworkHop{Interface: name, OnLink: h.flags&unix.RTNH_F_ONLINK != 0, Weight: uint32(h.weight)}
		if hop.Gateway, err = h.gateway(m.Family); err != nil {
			return nil, err
		}
		route.Hops = append(route.Hops, hop)
	}
	if len(route.GetHops()) == 0 {
		return nil, nil
	}
	return route, nil
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
			neighbour.Router = entry.Flags&unix.NTF_ROUTER != 0
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
				leftOut = append(leftOut, fmt.Sprintf("routing rule %v (%s)", r, why))
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
