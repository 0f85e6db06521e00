//go:build vm

package network_test

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/network"
)

// ip runs lines of ip(8) in the namespace.
func (s *space) ip(t *testing.T, lines string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "nsenter", "--net="+s.path, "ip", "-batch", "-")
	command.Stdin = strings.NewReader(lines)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
}

// TestRouteAttributes are the guest's too, those that the netlink library has no
// word for included. A route that would be another one without them is left out.
func TestRouteAttributes(t *testing.T) {
	pod := newSpace(t)
	pod.veth(t, newSpace(t), "eth0")
	pod.ip(t, `
address add 10.1.0.2/24 metric 50 dev eth0
address add 2001:db8:1::2/64 nodad valid_lft 3000 preferred_lft 2000 dev eth0
address add 2001:db8:1::3/64 nodad preferred_lft 0 dev eth0
route add 10.2.0.0/16 via 10.1.0.1 mtu lock 1300 rtt lock 300ms rto_min 5ms cwnd lock 9 window 7000 congctl cubic
route add 2001:db8:2::/48 via 2001:db8:1::1 dev eth0 pref high advmss 1111
route add 10.3.0.0/16 encap ip id 7 dst 10.1.0.9 dev eth0
`)
	namespace, err := network.OpenNamespace(pod.path)
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	snapshot, err := namespace.Scan(func(int) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	routes := map[string]*protocol.NetworkRoute{}
	for _, r := range snapshot.Routes {
		routes[fmt.Sprintf("%v/%d", net.IP(r.GetDestination()), r.GetPrefixLength())] = r
	}
	const locks = 1<<unix.RTAX_MTU | 1<<unix.RTAX_RTT | 1<<unix.RTAX_RTO_MIN | 1<<unix.RTAX_CWND
	want := []*protocol.NetworkMetric{
		{Type: unix.RTAX_LOCK, Value: locks},
		{Type: unix.RTAX_MTU, Value: 1300},
		{Type: unix.RTAX_WINDOW, Value: 7000},
		{Type: unix.RTAX_RTT, Value: 300 * 8}, // as ip(8) scales them
		{Type: unix.RTAX_CWND, Value: 9},
		{Type: unix.RTAX_RTO_MIN, Value: 5},
	}
	r := routes["10.2.0.0/16"]
	if diff := cmp.Diff(want, r.GetMetrics(), protocmp.Transform()); diff != "" || r.GetCongestionControl() != "cubic" {
		t.Errorf("congestion control %q, metrics wanted (-) and had (+):\n%s", r.GetCongestionControl(), diff)
	}
	r = routes["2001:db8:2::/48"]
	if len(r.GetMetrics()) != 1 || r.GetMetrics()[0].GetValue() != 1111 || r.GetPreference() != 1 { // ICMPV6_ROUTER_PREF_HIGH
		t.Errorf("route %v", r)
	}
	if r := routes["10.3.0.0/16"]; r != nil || len(snapshot.LeftOut) != 1 || !strings.Contains(snapshot.LeftOut[0], "10.3.0.0/16") {
		t.Errorf("a tunnel: %v, left out %q", r, snapshot.LeftOut)
	}
	found := 0
	for _, a := range snapshot.Interfaces[0].Guest.GetAddresses() {
		switch net.IP(a.GetAddress()).String() {
		case "10.1.0.2":
			found++
			if a.GetPrefixRoutePriority() != 50 {
				t.Errorf("address %v", a)
			}
		case "2001:db8:1::2", "2001:db8:1::3":
			found++
			if a.GetDeprecated() != (a.GetAddress()[15] == 3) || a.GetPrefixRoutePriority() != 0 {
				t.Errorf("address %v", a)
			}
		}
	}
	if found != 3 {
		t.Errorf("addresses %v", snapshot.Interfaces[0].Guest.GetAddresses())
	}
}
