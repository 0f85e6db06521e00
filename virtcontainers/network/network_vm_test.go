//go:build vm

package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/osthread"
)

const frameBytes = 60

// vnetHeader is what stands before each frame of a tap: struct virtio_net_hdr.
const vnetHeader = 10

func TestFramesPassBothWays(t *testing.T) {
	for _, model := range []network.Model{network.ModelTC} {
		pod, host := newSpace(t), newSpace(t)
		pod.veth(t, host, "eth0")
		pod.address(t, "eth0", "10.1.0.2/24")
		before := pod.dump(t)
		joined, _, tap := join(t, pod, model)
		if err := joined.Prepare(); err != nil {
			t.Fatal(err)
		}
		peer := host.socket(t, "host-eth0")
		ours, theirs := pod.link(t, "eth0").Attrs().HardwareAddr, host.link(t, "host-eth0").Attrs().HardwareAddr
		if _, err := unix.Write(peer, frame(ours, theirs, "to the guest")); err != nil {
			t.Fatal(err)
		}
		readTap(t, tap, "to the guest")
		if _, err := unix.Write(int(tap.Files[0].Fd()), append(make([]byte, vnetHeader), frame(theirs, ours, "from the guest")...)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 2048)
		n, err := unix.Read(peer, buffer)
		if err != nil || !strings.Contains(string(buffer[:n]), "from the guest") {
			t.Errorf("the peer received %q, %v", buffer[:max(0, n)], err)
		}
		for range 2 {
			if err := joined.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if after := pod.dump(t); after != before {
			t.Errorf("the namespace is not as it was:\n%s", cmp.Diff(before, after))
		}
	}
}

func TestGuestHasWhatTheNamespaceHas(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	pod.veth(t, host, "eth0")
	pod.address(t, "eth0", "10.1.0.2/24")
	pod.address(t, "eth0", "fd00::2/64")
	pod.address(t, "lo", "192.0.2.1/32")
	if err := pod.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: "ifb7"}}); err != nil {
		t.Fatal(err)
	}
	if err := pod.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
		t.Fatal(err)
	}
	pod.veth(t, host, "port0")
	if err := pod.LinkSetMaster(pod.link(t, "port0"), pod.link(t, "br0")); err != nil {
		t.Fatal(err)
	}
	eth0 := pod.link(t, "eth0").Attrs().Index
	any4, any6 := parseCIDR("0.0.0.0/0"), parseCIDR("::/0")
	for _, route := range []*netlink.Route{
		{Dst: any4, Gw: net.ParseIP("10.1.0.1"), LinkIndex: eth0},
		{Dst: any6, Gw: net.ParseIP("fd00::1"), LinkIndex: eth0},
		{Dst: parseCIDR("198.51.100.0/24"), Type: unix.RTN_BLACKHOLE},
		{Dst: parseCIDR("fd01::/64"), Type: unix.RTN_BLACKHOLE},
		{Dst: parseCIDR("203.0.113.0/24"), Gw: net.ParseIP("169.254.1.1"), LinkIndex: eth0, Flags: int(netlink.FLAG_ONLINK), Table: 100},
	} {
		if err := pod.RouteAdd(route); err != nil {
			t.Fatalf("%v: %v", route, err)
		}
	}
	rule := netlink.NewRule()
	rule.Src, rule.Table, rule.Priority = parseCIDR("10.1.0.2/32"), 100, 1000
	forbidden := netlink.NewRule()
	forbidden.Dst, forbidden.Type, forbidden.Priority = parseCIDR("192.0.2.0/24"), unix.FR_ACT_PROHIBIT, 1001
	rules := 2
	if err := errors.Join(pod.RuleAdd(rule), pod.RuleAdd(forbidden)); errors.Is(err, unix.EOPNOTSUPP) {
		rules = 0
		t.Log("this kernel has no routing rules")
	} else if err != nil {
		t.Fatal(err)
	}
	if err := pod.NeighAdd(&netlink.Neigh{
		LinkIndex: eth0, State: unix.NUD_PERMANENT, IP: net.ParseIP("10.1.0.9"),
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9},
	}); err != nil {
		t.Fatal(err)
	}
	joined, g, tap := join(t, pod, network.ModelTC)
	if err := joined.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := joined.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	request := proto.CloneOf(<-g.told)
	slices.SortFunc(request.GetInterfaces(), func(a, b *protocol.NetworkInterface) int { return strings.Compare(a.GetName(), b.GetName()) })
	if got, want := names(request), []string{"br0", "eth0", "ifb7", "lo", "port0"}; !slices.Equal(got, want) {
		t.Fatalf("interfaces %q, want %q", got, want)
	}
	if len(g.nics) != 3 { // one was spare
		t.Errorf("plugged in: %q", g.nics)
	}
	eth := request.GetInterfaces()[1]
	if !slices.Equal(eth.GetMac(), pod.link(t, "eth0").Attrs().HardwareAddr) || eth.GetMtu() != 1400 || !eth.GetUp() {
		t.Errorf("eth0: %v", eth)
	}
	if !slices.Equal(eth.GetDeviceMac(), tap.MAC) && !slices.ContainsFunc(request.GetInterfaces(), func(i *protocol.NetworkInterface) bool { return slices.Equal(i.GetDeviceMac(), tap.MAC) }) {
		t.Error("nobody has the spare NIC")
	}
	var addresses []string
	for _, a := range eth.GetAddresses() {
		addresses = append(addresses, fmt.Sprintf("%v/%d", net.IP(a.GetAddress()), a.GetPrefixLength()))
	}
	slices.Sort(addresses)
	if want := []string{"10.1.0.2/24", "fd00::2/64"}; !slices.Equal(addresses, want) {
		t.Errorf("addresses %q, want %q", addresses, want)
	}
	if lo := request.GetInterfaces()[3]; len(lo.GetDeviceMac()) != 0 || len(lo.GetAddresses()) != 1 {
		t.Errorf("lo: %v", lo)
	}
	var routes []string
	for _, r := range request.GetRoutes() {
		text := fmt.Sprintf("%v/%d type %d table %d", net.IP(r.GetDestination()), r.GetPrefixLength(), r.GetType(), r.GetTable())
		for _, hop := range r.GetHops() {
			text += fmt.Sprintf(" via %v dev %s onlink %v", net.IP(hop.GetGateway()), hop.GetInterface(), hop.GetOnLink())
		}
		routes = append(routes, text)
	}
	slices.Sort(routes)
	want := []string{
		"198.51.100.0/24 type 6 table 254", "203.0.113.0/24 type 1 table 100 via 169.254.1.1 dev eth0 onlink true",
		"<nil>/0 type 1 table 254 via 10.1.0.1 dev eth0 onlink false", "<nil>/0 type 1 table 254 via fd00::1 dev eth0 onlink false",
		"fd01::/64 type 6 table 254",
	}
	if !slices.Equal(routes, want) {
		t.Errorf("routes:\n%s", cmp.Diff(want, routes))
	}
	if len(request.GetNeighbours()) != 1 || request.GetNeighbours()[0].GetInterface() != "eth0" {
		t.Errorf("neighbours: %v", request.GetNeighbours())
	}
	if len(request.GetRules()) != rules || rules > 0 && (request.GetRules()[0].GetTable() != 100 || request.GetRules()[0].GetSourcePrefixLength() != 32 ||
		request.GetRules()[0].GetType() != unix.FR_ACT_TO_TBL || request.GetRules()[1].GetType() != unix.FR_ACT_PROHIBIT) {
		t.Errorf("rules: %v", request.GetRules())
	}
	if err := joined.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(g.told) != 0 {
		t.Errorf("told again, though nothing has changed: %v", <-g.told)
	}
}

func parseCIDR(text string) *net.IPNet {
	_, network, err := net.ParseCIDR(text)
	if err != nil {
		panic(err)
	}
	return network
}

func TestFollow(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	joined, g, tap := join(t, pod, network.ModelTC)
	if err := joined.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := joined.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		joined.Follow(ctx)
	}()
	await := func(what string, fits func(*protocol.SetNetworkRequest) bool) {
		t.Helper()
		timeout := time.After(20 * time.Second)
		for {
			select {
			case request := <-g.told:
				if fits(request) {
					return
				}
			case <-timeout:
				t.Fatalf("the guest was not told: %s", what)
			}
		}
	}
	pod.veth(t, host, "eth0")
	pod.address(t, "eth0", "10.1.0.2/24")
	await("a new interface", func(r *protocol.SetNetworkRequest) bool {
		return slices.Equal(names(r), []string{"eth0"}) && slices.Equal(r.GetInterfaces()[0].GetDeviceMac(), tap.MAC) &&
			slices.ContainsFunc(r.GetInterfaces()[0].GetAddresses(), func(a *protocol.NetworkAddress) bool { return len(a.GetAddress()) == 4 })
	})
	pod.veth(t, host, "eth1")
	await("a second one", func(r *protocol.SetNetworkRequest) bool { return slices.Equal(names(r), []string{"eth0", "eth1"}) })
	if err := pod.LinkSetMTU(pod.link(t, "eth0"), 1300); err != nil {
		t.Fatal(err)
	}
	await("another MTU", func(r *protocol.SetNetworkRequest) bool { return r.GetInterfaces()[0].GetMtu() == 1300 })
	if got := pod.link(t, fmt.Sprintf("kata%d", pod.link(t, "eth0").Attrs().Index)).Attrs().MTU; got != 1300 {
		t.Errorf("the tap's MTU is %d", got)
	}
	if err := pod.RouteAdd(&netlink.Route{Dst: parseCIDR("192.0.2.0/24"), Gw: net.ParseIP("10.1.0.1")}); err != nil {
		t.Fatal(err)
	}
	await("a route", func(r *protocol.SetNetworkRequest) bool { return len(r.GetRoutes()) == 1 })
	for _, name := range []string{"eth0", "eth1"} {
		if err := pod.LinkDel(pod.link(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	await("both are gone", func(r *protocol.SetNetworkRequest) bool { return len(r.GetInterfaces()) == 0 })
	pod.veth(t, host, "again")
	await("the spare NIC is used again", func(r *protocol.SetNetworkRequest) bool {
		return slices.Equal(names(r), []string{"again"}) && slices.Equal(r.GetInterfaces()[0].GetDeviceMac(), tap.MAC)
	})
	cancel()
	<-done
	if g.unplugs != 1 {
		t.Errorf("unplugged %d NICs, want 1", g.unplugs)
	}
}

// TestRestore leaves what a killed supervisor does: its descriptors are closed
// and nothing else.
func TestRestore(t *testing.T) {
	for _, existing := range []string{"", "ingress", "clsact"} {
		pod, host := newSpace(t), newSpace(t)
		pod.veth(t, host, "eth0")
		attrs := netlink.QdiscAttrs{LinkIndex: pod.link(t, "eth0").Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}
		var err error
		switch existing {
		case "ingress":
			err = pod.QdiscAdd(&netlink.Ingress{QdiscAttrs: attrs})
		case "clsact":
			err = pod.QdiscAdd(&netlink.Clsact{QdiscAttrs: attrs})
		}
		if err != nil {
			t.Fatal(err)
		}
		before := pod.dump(t)
		joined, _, tap := join(t, pod, network.ModelTC)
		if err := joined.Prepare(); err != nil {
			t.Fatalf("%q: %v", existing, err)
		}
		second, _, _ := join(t, pod, network.ModelTC)
		if err := second.Prepare(); err == nil || !strings.Contains(err.Error(), "interface eth0 (veth)") || !strings.Contains(err.Error(), "already") {
			t.Errorf("a second VM on the same interface: %v", err)
		}
		if err := network.Restore(pod.path); err != nil {
			t.Fatal(err)
		}
		if len(pod.dump(t)) <= len(before) {
			t.Error("the connection of a living VM was undone")
		}
		tap.Close()
		if err := network.Restore(pod.path); err != nil {
			t.Fatal(err)
		}
		if after := pod.dump(t); after != before {
			t.Errorf("existing %q: the namespace is not as it was:\n%s", existing, cmp.Diff(before, after))
		}
	}
}

func TestFailedConnectionLeavesNothing(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	pod.veth(t, host, "eth0")
	pod.veth(t, host, "eth1")
	before := pod.dump(t)
	joined, g, _ := join(t, pod, network.ModelTC)
	g.refuse = errors.New("no slot")
	if err := joined.Prepare(); err != nil {
		t.Fatal(err)
	}
	err := joined.Sync(t.Context())
	if err == nil || !strings.Contains(err.Error(), "connect interface eth1 (veth): plug in a NIC: no slot") {
		t.Errorf("error %v", err)
	}
	if request := <-g.told; !slices.Equal(names(request), []string{"eth0"}) {
		t.Errorf("the guest has %q", names(request))
	}
	if err := joined.Close(); err != nil {
		t.Fatal(err)
	}
	if after := pod.dump(t); after != before {
		t.Errorf("the namespace is not as it was:\n%s", cmp.Diff(before, after))
	}
}

// TestTapThatCannotBeMade has its name taken.
func TestTapThatCannotBeMade(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	pod.veth(t, host, "eth0")
	taken := fmt.Sprintf("kata%d", pod.link(t, "eth0").Attrs().Index)
	if err := pod.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: taken}}); err != nil {
		t.Fatal(err)
	}
	before := pod.dump(t)
	joined, _, _ := join(t, pod, network.ModelTC)
	err := joined.Prepare()
	if err == nil || !strings.Contains(err.Error(), "connect interface eth0 (veth): move the tap into the namespace") {
		t.Errorf("error %v", err)
	}
	if err := joined.Close(); err != nil {
		t.Fatal(err)
	}
	if after := pod.dump(t); after != before {
		t.Errorf("the namespace is not as it was:\n%s", cmp.Diff(before, after))
	}
}

func TestUnsupportedInterfaces(t *testing.T) {
	pod := newSpace(t)
	err := osthread.Run(func() error { // made by an ioctl, in the thread's namespace
		if err := unix.Setns(int(pod.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "tun7"
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN})
	})
	if err != nil {
		t.Fatal(err)
	}
	joined, _, _ := join(t, pod, network.ModelTC)
	if err := joined.Prepare(); err != nil {
		t.Errorf("one that is down: %v", err)
	}
	pod.up(t, "tun7")
	if err := joined.Prepare(); !errors.Is(err, network.ErrUnsupported) || !strings.Contains(err.Error(), "interface tun7") {
		t.Errorf("error %v", err)
	}
}

func TestMacvtap(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	pod.veth(t, host, "eth0")
	before := pod.dump(t)
	joined, g, _ := join(t, pod, network.ModelMacvtap)
	if err := joined.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := joined.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if request := <-g.told; !slices.Equal(names(request), []string{"eth0"}) || len(g.nics) != 1 {
		t.Errorf("told %v, plugged in %q", request, g.nics)
	}
	if link := pod.link(t, fmt.Sprintf("kata%d", pod.link(t, "eth0").Attrs().Index)); link.Type() != "macvtap" {
		t.Errorf("connected by a %s", link.Type())
	}
	if err := joined.Close(); err != nil {
		t.Fatal(err)
	}
	if after := pod.dump(t); after != before {
		t.Errorf("the namespace is not as it was:\n%s", cmp.Diff(before, after))
	}
}

func TestCheck(t *testing.T) {
	before, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if err := network.Check(); err != nil {
		t.Error(err)
	}
	if after, err := net.Interfaces(); err != nil || len(after) != len(before) {
		t.Errorf("%d interfaces, had %d: %v", len(after), len(before), err)
	}
}
