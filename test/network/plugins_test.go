//go:build vm

package network

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBridge has two pods and the host on three bridges, with IPv4 and IPv6:
// one for each size of packets, so that two machines do for all.
func TestBridge(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.serve("")
	mtus := []int{1500, 1280, 9000}
	names := []string{"pod0", "pod1"}
	var namespaces []string
	for _, name := range names {
		namespaces = append(namespaces, w.namespace(name))
	}
	addresses := map[string][][]string{} // by place and size
	for i, mtu := range mtus {
		bridge := fmt.Sprintf("cni%d", mtu)
		w.removeLink(bridge)
		n := w.network(bridge, object{
			"type": "bridge", "bridge": bridge, "isGateway": true, "mtu": mtu,
			"ipam": w.ipam(i == 0, fmt.Sprintf("10.88.%d.0/24", i), fmt.Sprintf("fd88:%d::/64", i)),
		})
		var gateways []string
		for k, ns := range namespaces {
			var own []string
			own, gateways = n.add(ns, fmt.Sprintf("eth%d", i), nil)
			addresses[names[k]] = append(addresses[names[k]], own)
		}
		addresses["the host"] = append(addresses["the host"], gateways)
	}
	places := []place{w.inside("the host", "")}
	for k, ns := range namespaces {
		places = append(places, w.pod(names[k], ns).place)
	}
	host, pod0 := places[0], places[1]

	for _, from := range places {
		for _, to := range places {
			if from.name == to.name || from.name == "pod1" && to.name == "pod0" {
				continue // the same two the other way
			}
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				for i, mtu := range mtus {
					from.reach(t, mtu, addresses[to.name][i]...)
				}
			})
		}
	}
	t.Run("transfers", func(t *testing.T) {
		size := strconv.Itoa(amount(64, 1024) * mebibyte)
		for _, way := range []string{"upload", "download"} {
			pod0.try(t, "", way, at(addresses["the host"][0][0]), size)
			pod0.try(t, "", way, at(addresses["pod1"][0][1]), size)
		}
	})
	t.Run("connections", func(t *testing.T) {
		pod0.try(t, "", "connections", at(addresses["the host"][0][0]), "1000")
		host.try(t, "", "connections", at(addresses["pod1"][0][1]), "1000")
	})
}

// reach tries each protocol at each address, with packets up to the largest.
func (p place) reach(t *testing.T, mtu int, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		p.try(t, "", "reach", at(address), strconv.Itoa(mtu))
	}
}

// TestManyPods has more pods than two on one bridge: each reaches each.
func TestManyPods(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.removeLink("cni0")
	n := w.network("bridge", object{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": w.ipam(true, "10.88.0.0/24")})
	pods, addresses := n.pods(amount(3, 10))
	for i, from := range pods {
		for k, to := range addresses {
			if i != k {
				from.try(t, "", "connections", at(to), "20")
			}
		}
	}
}

// TestPlugins has one pod with an interface of each plugin, all of which work
// at once: what one needs of the namespace does not break another.
func TestPlugins(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.serve("")
	host := w.inside("the host", "")
	ns := w.namespace("pod")

	w.removeLink("bridge0")
	bridged, gateways := w.network("published",
		object{"type": "bridge", "bridge": "bridge0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": w.ipam(true, "10.90.0.0/24")},
		object{"type": "portmap", "capabilities": object{"portMappings": true}, "snat": true},
		object{"type": "firewall", "backend": "iptables"},
		object{"type": "tuning", "mac": "02:00:00:00:90:90", "mtu": 1400},
	).add(ns, "eth0", object{"portMappings": []object{
		{"hostPort": 8080, "containerPort": 7000, "protocol": "tcp"},
		{"hostPort": 8080, "containerPort": 7000, "protocol": "udp"},
	}})
	ptp, _ := w.network("ptp", object{"type": "ptp", "ipMasq": false, "ipam": w.ipam(false, "10.91.0.0/24")}).add(ns, "ptp0", nil)

	// The macvlan's neighbour is in a namespace of its own: a host does not
	// reach its own macvlan interfaces.
	outside := w.namespace("outside")
	w.ip("", "link add wire type veth peer name eth0 netns "+outside+"\nlink set wire up")
	w.removeLink("wire")
	w.ip(outside, "link set eth0 up\naddress add 10.92.0.1/24 dev eth0")
	macvlan, _ := w.network("macvlan", object{"type": "macvlan", "master": "wire", "mode": "bridge", "ipam": w.ipam(false, "10.92.0.0/24")}).add(ns, "mac0", nil)

	const limit = 8 * mebibyte // bits per second
	w.removeLink("bridge1")
	limited, _ := w.network("limited",
		object{"type": "bridge", "bridge": "bridge1", "isGateway": true, "ipam": w.ipam(false, "10.93.0.0/24")},
		object{"type": "bandwidth", "ingressRate": limit, "ingressBurst": limit / 8, "egressRate": limit, "egressBurst": limit / 8},
	).add(ns, "slow0", nil)

	inside := w.inside("the namespace", ns)
	for _, name := range []string{"eth0", "ptp0", "mac0", "slow0"} {
		inside.get("follow", "address "+name+" fe80::", "route table 254 family 10 fe80::/64 type 1 scope 0 protocol 2 metric 256 dev "+name)
	}
	before, view := inside.get("dump"), inside.get("view")
	p := w.pod("the pod", ns)
	// Each line of the namespace's view is in the pod's.
	p.get(append([]string{"follow"}, strings.Split(strings.TrimSpace(view), "\n")...)...)

	t.Run("bridge, tuning and firewall", func(t *testing.T) {
		p.reach(t, 1400, gateways...)
		host.try(t, "", "connections", at(bridged[0]), "10")
	})
	t.Run("portmap", func(t *testing.T) {
		// By the host, and by the pod itself.
		host.try(t, "", "upload", "10.90.0.1:8080", strconv.Itoa(mebibyte))
		host.try(t, "", "datagrams", "10.90.0.1:8080", "10")
		host.try(t, "", "upload", "127.0.0.1:8080", strconv.Itoa(mebibyte))
		p.try(t, "", "upload", "10.90.0.1:8080", strconv.Itoa(mebibyte))
	})
	t.Run("ptp", func(t *testing.T) {
		host.reach(t, 1500, ptp...)
	})
	t.Run("macvlan", func(t *testing.T) {
		w.inside("outside", outside).reach(t, 1500, macvlan...)
	})
	t.Run("bandwidth", func(t *testing.T) {
		// More than the bursts: after them the limit holds, both ways.
		for _, rate := range []string{
			p.get("rate", "10.93.0.1:"+port, strconv.Itoa(4*mebibyte)),
			host.get("rate", at(limited[0]), strconv.Itoa(4*mebibyte)),
		} {
			n, err := strconv.Atoi(strings.TrimSpace(rate))
			if err != nil || n > limit/8*3/2 {
				t.Errorf("%d bytes per second, with a limit of %d, %v", n, limit/8, err)
			}
		}
	})
	p.remove()
	if diff := cmp.Diff(before, inside.get("dump")); diff != "" {
		t.Errorf("the namespace was (-) and is after delete (+):\n%s", diff)
	}
}
