//go:build vm

package network

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
)

func priorities(t *testing.T) []int {
	t.Helper()
	list, err := netlink.RuleList(netlink.FAMILY_V4)
	check(t, err)
	var result []int
	for _, rule := range list {
		result = append(result, rule.Priority)
	}
	slices.Sort(result)
	return result
}

// TestWhatTheKernelRefusedIsForgotten although it cannot be removed either.
func TestWhatTheKernelRefusedIsForgotten(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		good := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24")},
			Routes:     []*protocol.NetworkRoute{toGateway("", "10.1.0.1", "eth0")},
		}
		bad := proto.CloneOf(good)
		hostBits := toGateway("198.51.100.0/24", "10.1.0.1", "eth0")
		hostBits.Destination = []byte{198, 51, 100, 7} // more than its prefix
		bad.Routes = append(bad.Routes, hostBits)
		if err := n.Set(t.Context(), bad); !errors.Is(err, unix.EINVAL) {
			t.Errorf("error %v", err)
		}
		check(t, n.Set(t.Context(), good))
	})
}

// TestRulesAfterAFailure are set by the call that succeeds.
func TestRulesAfterAFailure(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		blocked := filepath.Join(t.TempDir(), "driver") // no directory: it cannot be listed
		check(t, os.WriteFile(blocked, nil, 0o600))
		driver := n.driver
		n.driver = blocked
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24")},
			Rules:      []*protocol.NetworkRule{{Family: unix.AF_INET, Priority: 100, Table: 500, Type: unix.FR_ACT_TO_TBL}},
		}
		if err := n.Set(t.Context(), request); err == nil {
			t.Error("no error")
		}
		n.driver = driver
		for range 2 {
			check(t, n.Set(t.Context(), request))
			if got, want := priorities(t), []int{0, 100, 32766, 32767}; !slices.Equal(got, want) {
				t.Errorf("rules %v, want %v", got, want)
			}
		}
		request.Rules = nil
		check(t, n.Set(t.Context(), request))
		if got, want := priorities(t), []int{0, 32766, 32767}; !slices.Equal(got, want) {
			t.Errorf("rules %v, want %v", got, want)
		}
	})
}

// TestRoutesToTheSamePlace stand beside each other, in their order.
func TestRoutesToTheSamePlace(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24")},
			Routes: []*protocol.NetworkRoute{
				toGateway("198.51.100.0/24", "10.1.0.1", "eth0"), toGateway("198.51.100.0/24", "10.1.0.3", "eth0"),
			},
		}
		for range 2 {
			check(t, n.Set(t.Context(), request))
			want := []string{"10.1.0.0/24", "198.51.100.0/24 via 10.1.0.1", "198.51.100.0/24 via 10.1.0.3"}
			if got := routeTexts(t); !slices.Equal(got, want) {
				t.Errorf("routes %q, want %q", got, want)
			}
		}
		request.Routes = request.GetRoutes()[1:]
		check(t, n.Set(t.Context(), request))
		if got, want := routeTexts(t), []string{"10.1.0.0/24", "198.51.100.0/24 via 10.1.0.3"}; !slices.Equal(got, want) {
			t.Errorf("routes %q, want %q", got, want)
		}
	})
}

// TestAttributesOfARouteChange in place.
func TestAttributesOfARouteChange(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24")},
			Routes:     []*protocol.NetworkRoute{toGateway("", "10.1.0.1", "eth0")},
		}
		check(t, n.Set(t.Context(), request))
		request.Routes[0].Metrics = []*protocol.NetworkMetric{{Type: unix.RTAX_MTU, Value: 1300}}
		check(t, n.Set(t.Context(), request))
		list, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		check(t, err)
		if !slices.ContainsFunc(list, func(r netlink.Route) bool { return r.MTU == 1300 }) {
			t.Errorf("routes %v", list)
		}
		request.Routes[0].Hops[0].Gateway = []byte{10, 1, 0, 3}
		check(t, n.Set(t.Context(), request))
		if got, want := routeTexts(t), []string{"10.1.0.0/24", "default via 10.1.0.3"}; !slices.Equal(got, want) {
			t.Errorf("routes %q, want %q", got, want)
		}
	})
}

// TestAddressIsDeprecated in place: a removal would take the routes over it along.
func TestAddressIsDeprecated(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24", "fd00::2/64")},
		}
		check(t, n.Set(t.Context(), request))
		_, prefix, err := net.ParseCIDR("10.8.0.0/16")
		check(t, err)
		check(t, netlink.RouteAdd(&netlink.Route{Dst: prefix, Gw: net.IPv4(10, 1, 0, 1)})) // a container's
		for _, deprecated := range []bool{true, false} {
			for _, a := range request.GetInterfaces()[0].GetAddresses() {
				a.Deprecated, a.PrefixRoutePriority = deprecated, 300
			}
			check(t, n.Set(t.Context(), request))
			link, err := netlink.LinkByName("eth0")
			check(t, err)
			list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
			check(t, err)
			for _, a := range list {
				if got := a.Flags&unix.IFA_F_DEPRECATED != 0; got != deprecated || a.Flags&unix.IFA_F_PERMANENT == 0 {
					t.Errorf("%v, to be deprecated %v: flags %x", a, deprecated, a.Flags)
				}
			}
			if got := routeTexts(t); len(list) != 2 || !slices.Contains(got, "10.8.0.0/16 via 10.1.0.1") {
				t.Errorf("addresses %v, routes %q", list, got)
			}
			for _, destination := range []string{"10.1.0.0/24", "fd00::/64"} {
				if r := find(t, unix.RT_TABLE_MAIN, destination); r.Priority != 300 {
					t.Errorf("the route of an address: %v, priority %d", r, r.Priority)
				}
			}
		}
	})
}

// TestFirstAddressGoes without those that others have made.
func TestFirstAddressGoes(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24", "10.1.0.3/24")},
		}
		check(t, n.Set(t.Context(), request))
		eth0, err := netlink.LinkByName("eth0")
		check(t, err)
		own, err := netlink.ParseAddr("10.1.0.7/24")
		check(t, err)
		check(t, netlink.AddrAdd(eth0, own))
		request.Interfaces[0].Addresses = request.GetInterfaces()[0].GetAddresses()[1:]
		check(t, n.Set(t.Context(), request))
		if got, want := addressTexts(t, "eth0"), []string{"10.1.0.3/24", "10.1.0.7/24"}; !slices.Equal(got, want) {
			t.Errorf("eth0 has %q, want %q", got, want)
		}
	})
}

// TestContainerRenamesAnInterface and what the host brought still goes.
func TestContainerRenamesAnInterface(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		check(t, n.Set(t.Context(), &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24", "10.2.0.2/24")},
		}))
		eth0, err := netlink.LinkByName("eth0")
		check(t, err)
		check(t, netlink.LinkSetDown(eth0))
		check(t, netlink.LinkSetName(eth0, "mine"))
		check(t, n.Set(t.Context(), &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.2.0.2/24")},
		}))
		if got, want := addressTexts(t, "eth0"), []string{"10.2.0.2/24"}; !slices.Equal(got, want) {
			t.Errorf("eth0 has %q, want %q", got, want)
		}
	})
}

// TestNameThatIsTaken by a container's interface stops that interface alone, and
// the names on the way to others' stay free.
func TestNameThatIsTaken(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "a", []byte{2, 0, 0, 0, 0, 1})
		plug(t, "b", []byte{2, 0, 0, 0, 0, 2})
		plug(t, "c", []byte{2, 0, 0, 0, 0, 3})
		plug(t, "own", []byte{2, 0, 0, 0, 0, 9})
		err := n.Set(t.Context(), &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{
			iface("b", 1, "10.1.0.2/24"), iface("own", 2, "10.2.0.2/24"), iface("c", 3, "10.3.0.2/24"),
		}})
		if !errors.Is(err, unix.EEXIST) {
			t.Errorf("error %v", err)
		}
		for name, want := range map[string]string{"b": "10.1.0.2/24", "c": "10.3.0.2/24"} {
			if got := addressTexts(t, name); !slices.Equal(got, []string{want}) {
				t.Errorf("%s has %q, want %q", name, got, want)
			}
		}
		check(t, n.Set(t.Context(), &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{
			iface("c", 1, "10.1.0.2/24"), iface("b", 3, "10.3.0.2/24"), iface("x", 2, "10.2.0.2/24"),
		}}))
		for name, want := range map[string]string{"c": "10.1.0.2/24", "b": "10.3.0.2/24", "x": "10.2.0.2/24"} {
			if got := addressTexts(t, name); !slices.Equal(got, []string{want}) {
				t.Errorf("%s has %q, want %q", name, got, want)
			}
		}
	})
}

// TestMTUAndMACChange while the interface is up keep what a container has made.
func TestMTUAndMACChange(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24", "fd00::2/64")}}
		check(t, n.Set(t.Context(), request))
		eth0, err := netlink.LinkByName("eth0")
		check(t, err)
		own, err := netlink.ParseAddr("fd77::1/64")
		check(t, err)
		own.Flags = unix.IFA_F_NODAD
		check(t, netlink.AddrAdd(eth0, own))
		request.Interfaces[0].Mtu, request.Interfaces[0].Mac = 9000, []byte{2, 0, 0, 0, 7, 7}
		check(t, n.Set(t.Context(), request))
		eth0, err = netlink.LinkByName("eth0")
		check(t, err)
		if attrs := eth0.Attrs(); attrs.MTU != 9000 || attrs.HardwareAddr.String() != "02:00:00:00:07:07" {
			t.Errorf("eth0: MTU %d, %v", attrs.MTU, attrs.HardwareAddr)
		}
		if got, want := addressTexts(t, "eth0"), []string{"10.1.0.2/24", "fd00::2/64", "fd77::1/64"}; !slices.Equal(got, want) {
			t.Errorf("eth0 has %q, want %q", got, want)
		}
		list, err := netlink.AddrList(eth0, netlink.FAMILY_V6)
		check(t, err)
		for _, a := range list {
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				t.Errorf("%v is tentative", a)
			}
		}
	})
}

// TestInterfaceWithoutIPv6 hears no router, as on the host; with an address it
// has IPv6 again.
func TestInterfaceWithoutIPv6(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		setting := "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"
		expect := func(want string) {
			t.Helper()
			got, err := os.ReadFile(setting)
			check(t, err)
			if string(got) != want {
				t.Errorf("disable_ipv6 is %q, want %q", got, want)
			}
		}
		request := &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24")}}
		check(t, n.Set(t.Context(), request))
		expect("1\n")
		// What a container sets stays.
		check(t, os.WriteFile(setting, []byte("0"), 0))
		check(t, n.Set(t.Context(), request))
		expect("0\n")
		check(t, os.WriteFile(setting, []byte("1"), 0))
		request.Interfaces[0] = iface("eth0", 1, "10.1.0.2/24", "fe80::2/64")
		check(t, n.Set(t.Context(), request))
		expect("0\n")
		if got, want := addressTexts(t, "eth0"), []string{"10.1.0.2/24", "fe80::2/64"}; !slices.Equal(got, want) {
			t.Errorf("eth0 has %q, want %q", got, want)
		}
	})
}
