package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/test/network/internal/attributes"
)

func printView(to io.Writer) error {
	lines, err := view()
	if err != nil {
		return err
	}
	_, err = io.WriteString(to, strings.Join(lines, "\n")+"\n")
	return err
}

// view describes the network namespace in what a pod can tell: no indices and
// no kinds, nothing that the kernel learns by itself. Sorted lines.
func view() ([]string, error) { return whole(viewOnce) }

// viewAttempts is how often a description is begun again because the namespace has
// changed meanwhile.
const viewAttempts = 20

// whole repeats what the kernel says it has not told in whole.
func whole(describe func() ([]string, error)) (lines []string, err error) {
	for range viewAttempts {
		if lines, err = describe(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return lines, err
}

func viewOnce() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	var lines []string
	for _, link := range links {
		attrs := link.Attrs()
		names[attrs.Index] = attrs.Name
		state := "down"
		if attrs.Flags&net.FlagUp != 0 {
			state = "up"
		}
		if attrs.RawFlags&unix.IFF_NOARP != 0 {
			state += " noarp"
		}
		lines = append(lines, fmt.Sprintf("link %s mac %s mtu %d %s", attrs.Name, attrs.HardwareAddr, attrs.MTU, state))
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		lines = append(lines, addressLine(a, names[a.LinkIndex]))
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		more, err := familyView(family, names)
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	slices.Sort(lines)
	return lines, nil
}

func addressLine(a netlink.Addr, name string) string {
	line := fmt.Sprintf("address %s %s scope %d", name, a.IPNet, a.Scope)
	if a.Peer != nil && !a.Peer.IP.Equal(a.IP) {
		line += " peer " + a.Peer.String()
	}
	if a.Broadcast != nil {
		line += " broadcast " + a.Broadcast.String()
	}
	if a.Label != "" && a.Label != name {
		line += " label " + a.Label
	}
	var flags []string
	for _, flag := range []struct {
		bit  int
		name string
	}{
		{unix.IFA_F_NOPREFIXROUTE, " noprefixroute"},
		{unix.IFA_F_DEPRECATED, " deprecated"},
		{unix.IFA_F_HOMEADDRESS, " home"},
		{unix.IFA_F_MCAUTOJOIN, " autojoin"},
	} {
		if a.Flags&flag.bit != 0 {
			flags = append(flags, flag.name)
		}
	}
	return line + strings.Join(flags, "")
}

// familyView describes routes, but for those of the local table, which the
// kernel makes of addresses, static neighbours, and rules.
func familyView(family int, names map[int]string) ([]string, error) {
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var lines []string
	for _, r := range routes {
		if r.Table != unix.RT_TABLE_LOCAL {
			lines = append(lines, routeLine(r, names))
		}
	}
	for _, proxy := range []bool{false, true} {
		list := netlink.NeighList
		if proxy {
			list = netlink.NeighProxyList
		}
		neighbours, err := list(0, family)
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		for _, n := range neighbours {
			if proxy {
				lines = append(lines, fmt.Sprintf("neighbour %s %s proxy", names[n.LinkIndex], n.IP))
			} else if n.State&netlink.NUD_PERMANENT != 0 {
				line := fmt.Sprintf("neighbour %s %s mac %s", names[n.LinkIndex], n.IP, n.HardwareAddr)
				if n.Flags&unix.NTF_ROUTER != 0 {
					line += " router"
				}
				lines = append(lines, line)
			}
		}
	}
	rules, err := netlink.RuleList(family)
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	for _, r := range rules {
		mask := uint32(0)
		if r.Mask != nil {
			mask = *r.Mask
		}
		lines = append(lines, fmt.Sprintf("rule family %d priority %d from %s to %s in %q out %q mark %d/%d invert %t suppress %d type %d table %d",
			family, r.Priority, r.Src, r.Dst, r.IifName, r.OifName, r.Mark, mask, r.Invert, r.SuppressPrefixlen, r.Type, r.Table)+attributes.Describe(r))
	}
	return lines, nil
}

func routeLine(r netlink.Route, names map[int]string) string {
	line := fmt.Sprintf("route table %d family %d %s type %d scope %d protocol %d metric %d", r.Table, r.Family, r.Dst, r.Type, r.Scope, r.Protocol, r.Priority)
	if r.Tos != 0 {
		line += fmt.Sprintf(" tos %d", r.Tos)
	}
	if r.Src != nil {
		line += " source " + r.Src.String()
	}
	hop := func(index int, gateway net.IP, via netlink.Destination, flags int) {
		if index != 0 {
			line += " dev " + names[index]
		}
		if gateway != nil {
			line += " gateway " + gateway.String()
		}
		if via != nil {
			line += " via " + via.String()
		}
		if flags&unix.RTNH_F_ONLINK != 0 {
			line += " onlink"
		}
	}
	hop(r.LinkIndex, r.Gw, r.Via, r.Flags)
	weight := func(hops int) { line += " nexthop weight " + strconv.Itoa(hops+1) }
	for _, h := range r.MultiPath {
		weight(h.Hops)
		hop(h.LinkIndex, h.Gw, h.Via, h.Flags)
	}
	return line + attributes.Describe(r)
}

// printDump prints the view and, of each link, whatever there is but counters:
// kind, index, master, queues, qdiscs with their filters.
func printDump(to io.Writer) error {
	lines, err := whole(dump)
	if err != nil {
		return err
	}
	_, err = io.WriteString(to, strings.Join(lines, "\n")+"\n")
	return err
}

func dump() ([]string, error) {
	lines, err := viewOnce()
	if err != nil {
		return nil, err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		link.Attrs().Statistics = nil
		more, err := qdiscLines(link)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(link)
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("%s %s", link.Type(), text))
		lines = append(lines, more...)
	}
	// Those of IPv6 come and go as the kernel finds an address to be unique.
	local, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list local routes: %w", err)
	}
	for _, r := range local {
		lines = append(lines, r.String())
	}
	slices.Sort(lines)
	return lines, nil
}

func qdiscLines(link netlink.Link) ([]string, error) {
	qdiscs, err := netlink.QdiscList(link)
	if err != nil {
		return nil, fmt.Errorf("list qdiscs of %s: %w", link.Attrs().Name, err)
	}
	var lines []string
	for _, q := range qdiscs {
		attrs := q.Attrs()
		attrs.Statistics = nil
		text, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("qdisc %s of %s: %s", q.Type(), link.Attrs().Name, text))
		parent := attrs.Handle
		if parent == 0 {
			continue // one that the kernel makes by itself and that takes no filter
		}
		filters, err := netlink.FilterList(link, parent)
		if err != nil {
			return nil, fmt.Errorf("list filters of %s: %w", link.Attrs().Name, err)
		}
		for _, f := range filters {
			text, err := json.Marshal(f)
			if err != nil {
				return nil, err
			}
			lines = append(lines, fmt.Sprintf("filter %s of %s: %s", f.Type(), link.Attrs().Name, text))
		}
	}
	return lines, nil
}

// follow waits for the kernel's word of changes until the view has each line,
// or does not have it where "!" stands before it. A line counts as there when
// one of the view's begins with it.
func follow(to io.Writer, want []string) error {
	done := make(chan struct{})
	defer close(done)
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	links, addresses := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	routes, neighbours := make(chan netlink.RouteUpdate), make(chan netlink.NeighUpdate)
	err := errors.Join(netlink.LinkSubscribe(links, done), netlink.AddrSubscribe(addresses, done),
		netlink.RouteSubscribe(routes, done), netlink.NeighSubscribe(neighbours, done))
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	go drain(links, wake)
	go drain(addresses, wake)
	go drain(routes, wake)
	go drain(neighbours, wake)
	expired := time.NewTimer(patience)
	for {
		lines, err := view()
		if err != nil {
			return err
		}
		missing := slices.IndexFunc(want, func(text string) bool {
			text, absent := strings.CutPrefix(text, "!")
			found := slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, text) })
			return found == absent
		})
		if missing < 0 {
			_, err := fmt.Fprintln(to, "seen")
			return err
		}
		select {
		case <-changed:
		case <-expired.C:
			return fmt.Errorf("not come true: %q, in\n%s", want[missing], strings.Join(lines, "\n"))
		}
	}
}

func drain[T any](from <-chan T, wake func()) {
	for range from {
		wake()
	}
}
