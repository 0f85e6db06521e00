//go:build vm && lab

package network

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStackedPlugins has one pod with an interface of each plugin whose devices
// not every test machine's kernel has: ipvlan and VLAN. What is below them is on
// a wire to another namespace.
func TestStackedPlugins(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	ns, outside := w.namespace("pod"), w.namespace("outside")
	for _, wire := range []string{"wire0", "wire1"} {
		w.ip("", "link add "+wire+" type veth peer name "+wire+" netns "+outside+"\nlink set "+wire+" up")
		w.removeLink(wire)
		w.ip(outside, "link set "+wire+" up")
	}
	w.ip(outside, "address add 10.94.0.1/24 dev wire0")
	w.ip(outside, "link add link wire1 name wire1.42 type vlan id 42\nlink set wire1.42 up\naddress add 10.95.0.1/24 dev wire1.42")

	ipvlan, _ := w.network("ipvlan", object{"type": "ipvlan", "master": "wire0", "mode": "l2", "ipam": w.ipam(false, "10.94.0.0/24")}).add(ns, "ipv0", nil)
	vlan, _ := w.network("vlan", object{"type": "vlan", "master": "wire1", "vlanId": 42, "ipam": w.ipam(false, "10.95.0.0/24")}).add(ns, "vlan0", nil)

	inside := w.inside("the namespace", ns)
	for _, name := range []string{"ipv0", "vlan0"} {
		inside.get("follow", "address "+name+" fe80::", "route table 254 family 10 fe80::/64 type 1 scope 0 protocol 2 metric 256 dev "+name)
	}
	before, view := inside.get("dump"), inside.get("view")
	p := w.pod("the pod", ns)
	p.get(append([]string{"follow"}, strings.Split(strings.TrimSpace(view), "\n")...)...)
	neighbour := w.inside("outside", outside)
	t.Run("ipvlan", func(t *testing.T) { neighbour.reach(t, 1500, ipvlan...) })
	t.Run("VLAN", func(t *testing.T) { neighbour.reach(t, 1500, vlan...) })
	w.serve(outside)
	t.Run("from the pod", func(t *testing.T) { p.reach(t, 1500, "10.94.0.1", "10.95.0.1") })
	p.remove()
	if diff := cmp.Diff(before, inside.get("dump")); diff != "" {
		t.Errorf("the namespace was (-) and is after delete (+):\n%s", diff)
	}
}
