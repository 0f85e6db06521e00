//go:build vm

package network

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
)

// inNamespace runs f in a network namespace of its own, on a thread that ends
// with it. Veth interfaces stand for NICs: their alias is the permanent address.
func inNamespace(t *testing.T, f func(n *Network)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		n := New(slog.New(slog.DiscardHandler))
		n.nics = nics{
			driver: filepath.Join(t.TempDir(), "none"),
			find:   func(link netlink.Link, mac []byte) bool { return link.Attrs().Alias == hex.EncodeToString(mac) },
		}
		lo, err := netlink.LinkByName("lo")
		check(t, err)
		check(t, netlink.LinkSetUp(lo))
		f(n)
	}()
	<-done
}

// check works outside of the test's own goroutine.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
}

// plug adds a NIC; what is sent to it goes nowhere.
func plug(t *testing.T, name string, mac []byte) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "p-" + name}))
	peer, err := netlink.LinkByName("p-" + name)
	check(t, err)
	check(t, netlink.LinkSetUp(peer))
	link, err := netlink.LinkByName(name)
	check(t, err)
	check(t, netlink.LinkSetAlias(link, hex.EncodeToString(mac)))
}

func iface(name string, device byte, addresses ...string) *protocol.NetworkInterface {
	i := &protocol.NetworkInterface{
		Name: name, DeviceMac: []byte{2, 0, 0, 0, 0, device}, Mac: []byte{2, 0, 0, 0, 1, device}, Mtu: 1400, Up: true,
	}
	for _, text := range addresses {
		ip, prefix, err := net.ParseCIDR(text)
		if err != nil {
			panic(err)
		}
		ones, _ := prefix.Mask.Size()
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		i.Addresses = append(i.Addresses, &protocol.NetworkAddress{Address: ip, PrefixLength: uint32(ones)})
	}
	return i
}

// toGateway is a route of the main table.
func toGateway(to, gateway, name string) *protocol.NetworkRoute {
	r := &protocol.NetworkRoute{Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_STATIC}
	if to != "" {
		_, prefix, err := net.ParseCIDR(to)
		if err != nil {
			panic(err)
		}
		ones, _ := prefix.Mask.Size()
		r.Destination, r.PrefixLength = prefix.IP, uint32(ones)
	}
	hop := &protocol.NetworkHop{Interface: name}
	if gateway != "" {
		hop.Gateway = net.ParseIP(gateway).To4()
	} else {
		r.Scope = unix.RT_SCOPE_LINK
	}
	r.Hops = []*protocol.NetworkHop{hop}
	return r
}

func addressTexts(t *testing.T, name string) []string {
	t.Helper()
	link, err := netlink.LinkByName(name)
	check(t, err)
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	check(t, err)
	var texts []string
	for _, a := range list {
		texts = append(texts, a.IPNet.String())
	}
	slices.Sort(texts)
	return texts
}

func routeTexts(t *testing.T) []string {
	t.Helper()
	list, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	check(t, err)
	var texts []string
	for _, r := range list {
		text := "default"
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			text = r.Dst.String()
		}
		if r.Gw != nil {
			text += " via " + r.Gw.String()
		}
		if r.Type == unix.RTN_BLACKHOLE {
			text += " blackhole"
		}
		if len(r.MultiPath) > 0 {
			text += " multipath"
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return texts
}

func TestSet(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{
				iface("eth0", 1, "10.1.0.2/24", "fd00::2/64"),
				{Name: "lo", Up: true, Addresses: []*protocol.NetworkAddress{{Address: []byte{192, 0, 2, 1}, PrefixLength: 32}}},
			},
			Routes: []*protocol.NetworkRoute{
				toGateway("", "169.254.1.1", "eth0"), // in need of the next
				toGateway("169.254.1.1/32", "", "eth0"),
				{Family: unix.AF_INET, Destination: []byte{198, 51, 100, 0}, PrefixLength: 24, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_BLACKHOLE},
				{
					Family: unix.AF_INET, Destination: []byte{203, 0, 113, 0}, PrefixLength: 24, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST,
					Hops: []*protocol.NetworkHop{
						{Interface: "eth0", Gateway: []byte{10, 1, 0, 1}, Weight: 1}, {Interface: "eth0", Gateway: []byte{10, 1, 0, 3}, Weight: 2},
					},
				},
			},
			Neighbours: []*protocol.NetworkNeighbour{{Interface: "eth0", Address: []byte{10, 1, 0, 9}, Mac: []byte{2, 0, 0, 0, 0, 9}}},
		}
		for range 2 { // once more changes nothing
			check(t, n.Set(t.Context(), request))
			link, err := netlink.LinkByName("eth0")
			check(t, err)
			attrs := link.Attrs()
			if attrs.HardwareAddr.String() != "02:00:00:00:01:01" || attrs.MTU != 1400 || attrs.Flags&net.FlagUp == 0 {
				t.Errorf("eth0: %v, MTU %d, %v", attrs.HardwareAddr, attrs.MTU, attrs.Flags)
			}
			if got := addressTexts(t, "eth0"); !slices.Equal(got, []string{"10.1.0.2/24", "fd00::2/64"}) {
				t.Errorf("eth0 has %q", got)
			}
			if got := addressTexts(t, "lo"); !slices.Contains(got, "192.0.2.1/32") || !slices.Contains(got, "127.0.0.1/8") {
				t.Errorf("lo has %q", got)
			}
			want := []string{
				"10.1.0.0/24", "169.254.1.1/32", "198.51.100.0/24 blackhole", "203.0.113.0/24 multipath", "default via 169.254.1.1",
			}
			if got := routeTexts(t); !slices.Equal(got, want) {
				t.Errorf("routes %q, want %q", got, want)
			}
			neighbours, err := netlink.NeighList(attrs.Index, netlink.FAMILY_V4)
			check(t, err)
			if !slices.ContainsFunc(neighbours, func(e netlink.Neigh) bool {
				return e.IP.String() == "10.1.0.9" && e.State == unix.NUD_PERMANENT
			}) {
				t.Errorf("neighbours %v", neighbours)
			}
		}
	})
}

// TestSetRemovesWhatTheHostBrought and nothing else.
func TestSetRemovesWhatTheHostBrought(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		request := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24", "10.1.0.3/24")},
			Routes:     []*protocol.NetworkRoute{toGateway("", "10.1.0.1", "eth0"), toGateway("198.51.100.0/24", "10.1.0.1", "eth0")},
			Neighbours: []*protocol.NetworkNeighbour{{Interface: "eth0", Address: []byte{10, 1, 0, 9}, Mac: []byte{2, 0, 0, 0, 0, 9}}},
		}
		check(t, n.Set(t.Context(), request))
		eth0, err := netlink.LinkByName("eth0")
		check(t, err)
		own, err := netlink.ParseAddr("10.7.0.1/16")
		check(t, err)
		check(t, netlink.AddrAdd(eth0, own))
		_, prefix, err := net.ParseCIDR("10.8.0.0/16")
		check(t, err)
		check(t, netlink.RouteAdd(&netlink.Route{Dst: prefix, LinkIndex: eth0.Attrs().Index}))

		request = proto.CloneOf(request)
		request.Interfaces[0].Addresses = request.GetInterfaces()[0].GetAddresses()[:1]
		request.Routes, request.Neighbours = request.GetRoutes()[:1], nil
		check(t, n.Set(t.Context(), request))
		if got := addressTexts(t, "eth0"); !slices.Equal(got, []string{"10.1.0.2/24", "10.7.0.1/16"}) {
			t.Errorf("eth0 has %q", got)
		}
		if got, want := routeTexts(t), []string{"10.1.0.0/24", "10.7.0.0/16", "10.8.0.0/16", "default via 10.1.0.1"}; !slices.Equal(got, want) {
			t.Errorf("routes %q, want %q", got, want)
		}
		neighbours, err := netlink.NeighList(eth0.Attrs().Index, netlink.FAMILY_V4)
		check(t, err)
		if slices.ContainsFunc(neighbours, func(e netlink.Neigh) bool { return e.State == unix.NUD_PERMANENT }) {
			t.Errorf("neighbours %v", neighbours)
		}
	})
}

func TestNamesChangePlaces(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "eth1", []byte{2, 0, 0, 0, 0, 1})
		plug(t, "eth0", []byte{2, 0, 0, 0, 0, 2})
		check(t, n.Set(t.Context(), &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{
			iface("eth0", 1, "10.1.0.2/24"), iface("eth1", 2, "10.2.0.2/24"),
		}, Routes: []*protocol.NetworkRoute{toGateway("", "10.2.0.1", "eth1")}}))
		for name, want := range map[string]string{"eth0": "10.1.0.2/24", "eth1": "10.2.0.2/24"} {
			if got := addressTexts(t, name); !slices.Equal(got, []string{want}) {
				t.Errorf("%s has %q", name, got)
			}
		}
		// Renamed by the host while it is up, with its routes.
		check(t, n.Set(t.Context(), &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{
			iface("eth0", 1, "10.1.0.2/24"), iface("net7", 2, "10.2.0.2/24"),
		}, Routes: []*protocol.NetworkRoute{toGateway("", "10.2.0.1", "net7")}}))
		if got, want := routeTexts(t), []string{"10.1.0.0/24", "10.2.0.0/24", "default via 10.2.0.1"}; !slices.Equal(got, want) {
			t.Errorf("routes %q, want %q", got, want)
		}
	})
}

func TestSetWaitsForNICs(t *testing.T) {
	inNamespace(t, func(n *Network) {
		request := &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24")}}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := n.Set(ctx, request); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "interface eth0: find the NIC with address 02:00:00:00:00:01") {
			t.Errorf("a NIC that never comes: %v", err)
		}
		looks := 0
		n.find = func(link netlink.Link, mac []byte) bool {
			// Each look asks of lo first, then of the others. The NIC comes after
			// the second list, which is taken when Set listens.
			if link.Attrs().Flags&net.FlagLoopback != 0 {
				if looks++; looks == 2 {
					plug(t, "late", []byte{2, 0, 0, 0, 0, 1})
				}
			}
			return link.Attrs().Alias == hex.EncodeToString(mac)
		}
		check(t, n.Set(t.Context(), request))
		if got := addressTexts(t, "eth0"); !slices.Equal(got, []string{"10.1.0.2/24"}) {
			t.Errorf("eth0 has %q", got)
		}
	})
}

func TestFailureConverges(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		good := &protocol.SetNetworkRequest{
			Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "10.1.0.2/24")},
			Routes:     []*protocol.NetworkRoute{toGateway("", "10.1.0.1", "eth0")},
		}
		bad := proto.CloneOf(good)
		bad.Routes = append(bad.Routes, toGateway("198.51.100.0/24", "10.9.9.9", "eth0"))
		bad.Interfaces[0].Addresses = append(bad.Interfaces[0].Addresses, &protocol.NetworkAddress{Address: []byte{10, 5, 0, 1}, PrefixLength: 16})
		err := n.Set(t.Context(), bad)
		if err == nil || !strings.Contains(err.Error(), "route to 198.51.100.0/24 via 10.9.9.9 on interface eth0") {
			t.Errorf("error %v", err)
		}
		if got := routeTexts(t); !slices.Contains(got, "default via 10.1.0.1") {
			t.Errorf("what can be done is not done: %q", got)
		}
		check(t, n.Set(t.Context(), good))
		if got, want := routeTexts(t), []string{"10.1.0.0/24", "default via 10.1.0.1"}; !slices.Equal(got, want) {
			t.Errorf("routes %q, want %q", got, want)
		}
		if got := addressTexts(t, "eth0"); !slices.Equal(got, []string{"10.1.0.2/24"}) {
			t.Errorf("eth0 has %q", got)
		}
	})
}

func TestAddressThatCannotBeSet(t *testing.T) {
	inNamespace(t, func(n *Network) {
		plug(t, "nic0", []byte{2, 0, 0, 0, 0, 1})
		err := n.Set(t.Context(), &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{iface("eth0", 1, "::/0")}})
		if err == nil || !strings.Contains(err.Error(), "interface eth0: set address ::/0") {
			t.Errorf("error %v", err)
		}
	})
}
