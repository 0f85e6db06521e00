//go:build vm

package network_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"kata-runtime/virtcontainers/network"
)

// macvlan adds one on top of lower, in the namespace of upper.
func (s *space) macvlan(t *testing.T, lower string, upper *space, name string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace = name, s.link(t, lower).Attrs().Index, netlink.NsFd(upper.file.Fd())
	if err := s.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Fatalf("no macvlan: %v", err)
	}
	upper.up(t, name)
}

// TestStackedInterface is an error that names both, and stops nothing else.
func TestStackedInterface(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	pod.veth(t, host, "eth0")
	host.macvlan(t, "host-eth0", pod, "eth1") // on top of one elsewhere
	joined, g, _ := join(t, pod, network.ModelTC)
	if err := joined.Prepare(); err != nil {
		t.Fatal(err)
	}
	settle(t, joined)
	if request := <-g.told; !slices.Equal(names(request), []string{"eth0", "eth1"}) {
		t.Errorf("the guest has %q", names(request))
	}
	pod.macvlan(t, "eth0", pod, "upper")
	if err := pod.LinkSetMTU(pod.link(t, "eth1"), 1300); err != nil {
		t.Fatal(err)
	}
	err := joined.Sync(t.Context())
	if !errors.Is(err, network.ErrUnsupported) || !strings.Contains(err.Error(), "interface upper (macvlan)") || !strings.Contains(err.Error(), "interface eth0") {
		t.Errorf("error %v", err)
	}
	if request := <-g.told; !slices.Equal(names(request), []string{"eth0", "eth1"}) || request.GetInterfaces()[1].GetMtu() != 1300 {
		t.Errorf("the guest was told %v", request)
	}
	second, _, _ := join(t, pod, network.ModelTC)
	if err := second.Prepare(); !errors.Is(err, network.ErrUnsupported) {
		t.Errorf("a new pod: %v", err)
	}
}
