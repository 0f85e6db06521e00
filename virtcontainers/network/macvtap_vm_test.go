//go:build vm

package network_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"kata-runtime/virtcontainers/network"
)

// TestMacvtapOfALivingVM stays, and one that a killed runtime has left goes.
func TestMacvtapOfALivingVM(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	pod.veth(t, host, "eth0")
	eth0 := pod.link(t, "eth0").Attrs().Index
	name := fmt.Sprintf("kata%d", eth0)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, eth0
	if err := pod.LinkAdd(&netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_PASSTHRU}}); err != nil {
		t.Fatal(err)
	}
	old := pod.link(t, name).Attrs().Index
	first, _, _ := join(t, pod, network.ModelMacvtap)
	settle(t, first)
	used := pod.link(t, name).Attrs().Index
	if used == old {
		t.Error("the old macvtap is used")
	}
	second, _, _ := join(t, pod, network.ModelMacvtap)
	if err := second.Sync(t.Context()); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second VM: %v", err)
	}
	if err := network.Restore(pod.path); err != nil {
		t.Fatal(err)
	}
	if got := pod.link(t, name).Attrs().Index; got != used {
		t.Error("the macvtap of a living VM was removed")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	settle(t, second)
}
