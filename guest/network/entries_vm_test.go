//go:build vm

package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// ip6 is an address in its 16 bytes.
func ip6(text string) []byte { return net.ParseIP(text).To16() }

func toIPv6(to string, prefix uint32, hops ...*protocol.NetworkHop) *protocol.NetworkRoute {
	return &protocol.NetworkRoute{
		Family: unix.AF_INET6, Destination: ip6(to), PrefixLength: prefix, Table: unix.RT_TABLE_MAIN,
		Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_STATIC, Priority: 1024, Hops: hops,
	}
}

func find(t *testing.T, table int, destination string) netlink.Route {
	t.Helper()
	list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	check(t, err)
	for _, r := range list {
		if r.Dst != nil && r.Dst.String() == destination {
			return r
		}
	}
	t.Errorf("no route to %s in table %d: %v", destination, table, list)
	return netlink.Route{}
}

// TestKindsOfRoutes checks what each field becomes; twice, since routes that
// are there must do no harm.
func TestKindsOfRoutes(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		detailed := toGateway("198.51.100.0/24", "192.0.2.1", "eth0")
		detailed.Hops[0].OnLink = true
		detailed.Table, detailed.Priority, detailed.Tos, detailed.Source = 1000, 77, 16, []byte{10, 1, 0, 2}
		for kind := uint32(unix.RTAX_MTU); kind < unix.RTAX_CC_ALGO; kind++ {
			value := 1000 + kind
			switch kind {
			case unix.RTAX_HOPLIMIT:
				value = 40
			case unix.RTAX_FEATURES:
				value = unix.RTAX_FEATURE_ECN
			}
			detailed.Metrics = append(detailed.Metrics, &protocol.NetworkMetric{Type: kind, Value: value})
		}
		detailed.Metrics = append(detailed.Metrics, &protocol.NetworkMetric{Type: unix.RTAX_LOCK, Value: 1 << unix.RTAX_MTU})
		detailed.CongestionControl = "no-such-thing" // of a host's newer kernel
		throughIPv6 := toGateway("203.0.113.0/24", "", "eth0")
		throughIPv6.Scope, throughIPv6.Hops[0].Gateway = unix.RT_SCOPE_UNIVERSE, ip6("fe80::1")
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24", "fd00::2/64", "fe80::2/64")},
			Routes: []*protocol.NetworkRoute{
				toIPv6("2001:db8::", 32, &protocol.NetworkHop{Interface: "eth0", Gateway: ip6("fd01::1")}), // in need of the next
				toIPv6("fd01::", 64, &protocol.NetworkHop{Interface: "eth0"}),
				toIPv6("2001:db8:1::", 48,
					&protocol.NetworkHop{Interface: "eth0", Gateway: ip6("fd00::1"), Weight: 1},
					&protocol.NetworkHop{Interface: "eth0", Gateway: ip6("fd00::3"), Weight: 3}),
				{
					Family: unix.AF_INET6, Destination: ip6("2001:db8:2::"), PrefixLength: 48,
					Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNREACHABLE, Priority: 1024,
				},
				detailed, throughIPv6,
			},
		}
		for _, kind := range []uint32{unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW} {
			request.Routes = append(request.Routes, &protocol.NetworkRoute{
				Family: unix.AF_INET, Destination: []byte{172, 16, byte(kind), 0}, PrefixLength: 24, Table: unix.RT_TABLE_MAIN, Type: kind,
			})
		}
		for range 2 {
			check(t, n.Set(t.Context(), request))
			if r := find(t, unix.RT_TABLE_MAIN, "2001:db8::/32"); r.Gw.String() != "fd01::1" {
				t.Errorf("through a gateway: %v", r)
			}
			if r := find(t, unix.RT_TABLE_MAIN, "2001:db8:1::/48"); len(r.MultiPath) != 2 || r.MultiPath[1].Hops != 2 {
				t.Errorf("through two gateways: %v", r)
			}
			if r := find(t, unix.RT_TABLE_MAIN, "2001:db8:2::/48"); r.Type != unix.RTN_UNREACHABLE {
				t.Errorf("unreachable: %v", r)
			}
			r := find(t, 1000, "198.51.100.0/24")
			if r.Gw.String() != "192.0.2.1" || r.Flags&unix.RTNH_F_ONLINK == 0 || r.Priority != 77 || r.Tos != 16 ||
				r.Src.String() != "10.1.0.2" {
				t.Errorf("with everything: %v", r)
			}
			r.Gw, r.Dst, r.Src, r.Flags = nil, nil, nil, 0
			want := netlink.Route{
				LinkIndex: r.LinkIndex, Family: unix.AF_INET, Table: 1000, Type: unix.RTN_UNICAST, Priority: 77, Tos: 16, Protocol: unix.RTPROT_STATIC,
				MTU: 1002, MTULock: true, Window: 1003, Rtt: 1004, RttVar: 1005, Ssthresh: 1006, Cwnd: 1007, AdvMSS: 1008, Reordering: 1009,
				Hoplimit: 40, InitCwnd: 1011, Features: 1, RtoMin: 1013, InitRwnd: 1014, QuickACK: 1015,
			}
			if diff := cmp.Diff(want, r); diff != "" {
				t.Errorf("want (-), is (+):\n%s", diff)
			}
			via, ok := find(t, unix.RT_TABLE_MAIN, "203.0.113.0/24").Via.(*netlink.Via)
			if !ok || via.Addr.String() != "fe80::1" {
				t.Errorf("through a gateway of IPv6: %v", via)
			}
			for _, kind := range []int{unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW} {
				if r := find(t, unix.RT_TABLE_MAIN, fmt.Sprintf("172.16.%d.0/24", kind)); r.Type != kind {
					t.Errorf("type %d: %v", kind, r)
				}
			}
		}
		request.Routes = nil
		check(t, n.Set(t.Context(), request))
		list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		check(t, err)
		for _, r := range list {
			if r.Protocol != unix.RTPROT_KERNEL {
				t.Errorf("left: %v", r)
			}
		}
	})
}

func TestKindsOfAddresses(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		i := iface("eth0", 1)
		i.Addresses = []*protocol.NetworkAddress{
			{Address: []byte{10, 1, 0, 2}, PrefixLength: 24, Broadcast: []byte{10, 1, 0, 255}, Label: "eth0:x"},
			{Address: []byte{10, 2, 0, 2}, PrefixLength: 32, Peer: []byte{10, 2, 0, 1}},
			{Address: []byte{10, 3, 0, 2}, PrefixLength: 24, NoPrefixRoute: true, Scope: unix.RT_SCOPE_LINK},
			{Address: ip6("fd00::2"), PrefixLength: 64, NoPrefixRoute: true},
		}
		check(t, n.Set(t.Context(), &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{i}}))
		link, err := netlink.LinkByName("eth0")
		check(t, err)
		list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		check(t, err)
		if len(list) != 4 {
			t.Fatalf("addresses %v", list)
		}
		// The kernel lists them by their scopes.
		slices.SortFunc(list, func(a, b netlink.Addr) int { return bytes.Compare(a.IP, b.IP) })
		if a := list[0]; a.Label != "eth0:x" || a.Broadcast.String() != "10.1.0.255" {
			t.Errorf("%v, label %q, broadcast %v", a, a.Label, a.Broadcast)
		}
		if a := list[1]; a.Peer == nil || a.Peer.String() != "10.2.0.1/32" || a.Broadcast != nil {
			t.Errorf("%v, peer %v, broadcast %v", a, a.Peer, a.Broadcast)
		}
		if a := list[2]; a.Scope != unix.RT_SCOPE_LINK || a.Flags&unix.IFA_F_NOPREFIXROUTE == 0 {
			t.Errorf("%v, scope %d, flags %x", a, a.Scope, a.Flags)
		}
		if a := list[3]; a.Flags&unix.IFA_F_NOPREFIXROUTE == 0 || a.Flags&unix.IFA_F_NODAD == 0 || a.Flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("%v, flags %x", a, a.Flags)
		}
		// The same address, otherwise.
		i.Addresses = []*protocol.NetworkAddress{
			{Address: []byte{10, 1, 0, 2}, PrefixLength: 16, Scope: unix.RT_SCOPE_HOST}, {Address: ip6("fd00::2"), PrefixLength: 96},
		}
		check(t, n.Set(t.Context(), &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{i}}))
		if got, want := addressTexts(t, "eth0"), []string{"10.1.0.2/16", "fd00::2/96"}; !slices.Equal(got, want) {
			t.Errorf("eth0 has %q, want %q", got, want)
		}
	})
}

func TestRulesAndProxies(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24", "fd00::2/64")},
			Rules: []*protocol.NetworkRule{
				{
					Family: unix.AF_INET, Priority: 10, Table: 1000, SuppressPrefixLengthPlusOne: 1, Invert: true, Mark: 5, Mask: 7,
					Source: []byte{10, 1, 0, 0}, SourcePrefixLength: 24, InputInterface: "lo", OutputInterface: "eth0", Tos: 16,
				},
				{Family: unix.AF_INET6, Priority: 11, Type: unix.FR_ACT_PROHIBIT, Destination: ip6("fd99::"), DestinationPrefixLength: 64},
			},
			Neighbours: []*protocol.NetworkNeighbour{
				{Interface: "eth0", Address: []byte{10, 1, 0, 9}, Proxy: true}, {Interface: "eth0", Address: ip6("fd00::9"), Mac: []byte{2, 0, 0, 0, 0, 9}},
			},
		}
		for range 2 {
			check(t, n.Set(t.Context(), request))
			rules, err := netlink.RuleList(netlink.FAMILY_V4)
			check(t, err)
			if len(rules) != 4 {
				t.Fatalf("rules %v", rules)
			}
			r := rules[1]
			if r.Priority != 10 || r.Table != 1000 || r.SuppressPrefixlen != 0 || !r.Invert || r.Mark != 5 || r.Mask == nil || *r.Mask != 7 ||
				r.Src.String() != "10.1.0.0/24" || r.IifName != "lo" || r.OifName != "eth0" || r.Tos != 16 {
				t.Errorf("rule %+v", r)
			}
			rules, err = netlink.RuleList(netlink.FAMILY_V6)
			check(t, err)
			if len(rules) != 3 || rules[1].Priority != 11 || rules[1].Dst.String() != "fd99::/64" {
				t.Errorf("rules of IPv6 %v", rules)
			}
			// What it does to packets shows its action.
			if _, err := netlink.RouteGet(ip6("fd99::1")); !errors.Is(err, unix.EACCES) {
				t.Errorf("a forbidden destination: %v", err)
			}
			proxies, err := netlink.NeighProxyList(0, netlink.FAMILY_V4)
			check(t, err)
			if len(proxies) != 1 || proxies[0].IP.String() != "10.1.0.9" {
				t.Errorf("proxies %v", proxies)
			}
		}
		// A neighbour that changes, and the rest gone.
		request.Rules, request.Neighbours = nil, request.GetNeighbours()[1:]
		request.Neighbours[0].Mac = []byte{2, 0, 0, 0, 0, 8}
		check(t, n.Set(t.Context(), request))
		for family, want := range map[int]int{netlink.FAMILY_V4: 3, netlink.FAMILY_V6: 2} {
			rules, err := netlink.RuleList(family)
			check(t, err)
			if len(rules) != want {
				t.Errorf("rules %v", rules)
			}
		}
		proxies, err := netlink.NeighProxyList(0, netlink.FAMILY_V4)
		check(t, err)
		if len(proxies) != 0 {
			t.Errorf("proxies %v", proxies)
		}
		list, err := netlink.NeighList(0, netlink.FAMILY_V6)
		check(t, err)
		if !slices.ContainsFunc(list, func(e netlink.Neigh) bool { return e.HardwareAddr.String() == "02:00:00:00:00:08" }) {
			t.Errorf("neighbours %v", list)
		}
	})
}

// TestInterfaceGoes with all that was on it; the host may have unplugged it
// before it says so.
func TestInterfaceGoes(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		plug(t, "nic1", []byte{2, 0, 0, 0, 0, 2})
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24"), iface("eth1", 2, "10.2.0.2/24", "fd02::2/64")},
			Routes: []*protocol.NetworkRoute{
				toGateway("198.51.100.0/24", "10.2.0.1", "eth1"), toIPv6("2001:db8::", 32, &protocol.NetworkHop{Interface: "eth1", Gateway: ip6("fd02::1")}),
			},
			Neighbours: []*protocol.NetworkNeighbour{
				{Interface: "eth1", Address: []byte{10, 2, 0, 9}, Mac: []byte{2, 0, 0, 0, 0, 9}}, {Interface: "eth1", Address: []byte{10, 2, 0, 8}, Proxy: true},
			},
		}
		check(t, n.Set(t.Context(), request))
		eth1, err := netlink.LinkByName("eth1")
		check(t, err)
		check(t, netlink.LinkDel(eth1))
		check(t, n.Set(t.Context(), &protocol.SetNetworkRequest{Interfaces: request.GetInterfaces()[:1]}))
		if len(n.brought) != 1 || len(n.prepared) != 1 {
			t.Errorf("still thought to be there: %v, %v", n.brought, n.prepared)
		}
		// Another one comes in its place.
		plug(t, "nic1", []byte{2, 0, 0, 0, 0, 2})
		check(t, n.Set(t.Context(), request))
		if got, want := addressTexts(t, "eth1"), []string{"10.2.0.2/24", "fd02::2/64"}; !slices.Equal(got, want) {
			t.Errorf("eth1 has %q, want %q", got, want)
		}
	})
}

// TestContainerSwitchesIPv6Off and the host's IPv6 stays out, without an error.
func TestContainerSwitchesIPv6Off(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24", "fd00::2/64")},
			Routes:     []*protocol.NetworkRoute{toIPv6("2001:db8::", 32, &protocol.NetworkHop{Interface: "eth0", Gateway: ip6("fd00::1")})},
			Neighbours: []*protocol.NetworkNeighbour{{Interface: "eth0", Address: ip6("fd00::9"), Mac: []byte{2, 0, 0, 0, 0, 9}}},
		}
		check(t, n.Set(t.Context(), request))
		check(t, os.WriteFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", []byte("1"), 0))
		check(t, n.Set(t.Context(), request))
		if got, want := addressTexts(t, "eth0"), []string{"10.1.0.2/24"}; !slices.Equal(got, want) {
			t.Errorf("eth0 has %q, want %q", got, want)
		}
	})
}

// TestInvalidRequestChangesNothing of what is there.
func TestInvalidRequestChangesNothing(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24")}}
		check(t, n.Set(t.Context(), request))
		if err := n.Set(t.Context(), &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{iface("../eth0", 1)}}); !errors.Is(err, ErrInvalid) {
			t.Errorf("error %v", err)
		}
		if got, want := addressTexts(t, "eth0"), []string{"10.1.0.2/24"}; !slices.Equal(got, want) {
			t.Errorf("eth0 has %q, want %q", got, want)
		}
		// An interface that the request lacks is no reason not to do the rest.
		err := n.Set(t.Context(), &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.3/24")},
			Routes:     []*protocol.NetworkRoute{toGateway("198.51.100.0/24", "10.1.0.1", "eth7")},
		})
		if err == nil {
			t.Error("no error")
		}
		if got, want := addressTexts(t, "eth0"), []string{"10.1.0.3/24"}; !slices.Equal(got, want) {
			t.Errorf("eth0 has %q, want %q", got, want)
		}
	})
}
