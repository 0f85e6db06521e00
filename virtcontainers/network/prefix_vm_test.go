//go:build vm

package network_test

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/network"
)

// TestPrefixRouteThatWasRemoved as CNI's ptp plugin does.
func TestPrefixRouteThatWasRemoved(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	pod.veth(t, host, "eth0")
	pod.veth(t, host, "down0")
	eth0 := pod.link(t, "eth0")
	for _, cidr := range []string{
		"10.1.0.2/24", "10.2.0.2/24", "10.2.0.3/24", "10.3.0.2/24", "10.3.0.3/24", "192.0.2.1/32",
		"fd01::2/64", "fd02::2/64", "fd02::3/64", "fd03::2/128",
	} {
		pod.address(t, "eth0", cidr)
	}
	for own, peer := range map[string]string{"10.4.0.1/32": "10.4.0.9/32", "10.5.0.1/24": "10.5.0.9/24", "fd04::1/128": "fd04::9/128"} {
		address, err := netlink.ParseAddr(own)
		if err != nil {
			t.Fatal(err)
		}
		address.IPNet.Mask = net.CIDRMask(8*len(address.Mask), 8*len(address.Mask))
		if address.Peer, err = netlink.ParseIPNet(peer); err != nil {
			t.Fatal(err)
		}
		address.Flags = unix.IFA_F_NODAD
		if err := pod.AddrAdd(eth0, address); err != nil {
			t.Fatal(err)
		}
	}
	pod.address(t, "down0", "10.9.0.2/24")
	if err := pod.LinkSetDown(pod.link(t, "down0")); err != nil {
		t.Fatal(err)
	}
	for _, cidr := range []string{"10.1.0.0/24", "10.3.0.0/24", "fd01::/64"} {
		if err := pod.RouteDel(&netlink.Route{Dst: parseCIDR(cidr), LinkIndex: eth0.Attrs().Index, Scope: netlink.SCOPE_LINK}); err != nil {
			t.Fatalf("%s: %v", cidr, err)
		}
	}
	namespace, err := network.OpenNamespace(pod.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { namespace.Close() })
	snapshot, err := namespace.Scan(func(int) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	removed := map[string]bool{"10.1.0.2": true, "10.3.0.2": true, "10.3.0.3": true, "fd01::2": true}
	count := 0
	for _, i := range snapshot.Interfaces {
		for _, a := range i.Guest.GetAddresses() {
			count++
			if got, want := a.GetNoPrefixRoute(), removed[net.IP(a.GetAddress()).String()]; got != want {
				t.Errorf("%v/%d: no prefix route: %v, want %v", net.IP(a.GetAddress()), a.GetPrefixLength(), got, want)
			}
		}
	}
	if count != 14 {
		t.Errorf("%d addresses, want 14", count)
	}
}
