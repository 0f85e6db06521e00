//go:build vm

package network_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/network"
)

// passes checks that frames pass between the interface's peer and the guest.
func passes(t *testing.T, pod, host *space, tap *network.Tap, name string) {
	t.Helper()
	peer := host.socket(t, "host-"+name)
	ours, theirs := pod.link(t, name).Attrs().HardwareAddr, host.link(t, "host-"+name).Attrs().HardwareAddr
	if _, err := unix.Write(peer, frame(ours, theirs, "to the guest")); err != nil {
		t.Fatal(err)
	}
	readTap(t, tap, "to the guest")
	if _, err := unix.Write(int(tap.Files[0].Fd()), append(make([]byte, vnetHeader), frame(theirs, ours, "from the guest")...)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2048)
	if n, err := unix.Read(peer, buffer); err != nil || !strings.Contains(string(buffer[:n]), "from the guest") {
		t.Errorf("the peer received %q, %v", buffer[:max(0, n)], err)
	}
}

// filters is how many filters an interface has for what it receives.
func (s *space) filters(t *testing.T, name string) int {
	t.Helper()
	list, err := s.FilterList(s.link(t, name), netlink.HANDLE_MIN_INGRESS)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	return len(list)
}

func settle(t *testing.T, joined *network.Network) {
	t.Helper()
	if err := joined.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// connected is a namespace with one interface, eth0, that a guest is connected
// with.
func connected(t *testing.T) (pod, host *space, joined *network.Network, tap *network.Tap) {
	t.Helper()
	pod, host = newSpace(t), newSpace(t)
	pod.veth(t, host, "eth0")
	joined, _, tap = join(t, pod, network.ModelTC)
	if err := joined.Prepare(); err != nil {
		t.Fatal(err)
	}
	settle(t, joined)
	return pod, host, joined, tap
}

func TestMasterComesAndGoes(t *testing.T) {
	pod, host, joined, tap := connected(t)
	if err := pod.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
		t.Fatal(err)
	}
	if err := pod.LinkSetMaster(pod.link(t, "eth0"), pod.link(t, "br0")); err != nil {
		t.Fatal(err)
	}
	settle(t, joined)
	if got := pod.filters(t, "eth0"); got != 0 {
		t.Errorf("a bridge's port has %d filters: what it receives does not reach the bridge", got)
	}
	if err := pod.LinkSetNoMaster(pod.link(t, "eth0")); err != nil {
		t.Fatal(err)
	}
	settle(t, joined)
	passes(t, pod, host, tap, "eth0")
}

// TestInterfaceComesBack with the same index and without what the kernel had
// there.
func TestInterfaceComesBack(t *testing.T) {
	pod, host, joined, tap := connected(t)
	away := newSpace(t)
	index := pod.link(t, "eth0").Attrs().Index
	if err := pod.LinkSetNsFd(pod.link(t, "eth0"), int(away.file.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := away.LinkSetNsFd(away.link(t, "eth0"), int(pod.file.Fd())); err != nil {
		t.Fatal(err)
	}
	pod.up(t, "eth0")
	if got := pod.link(t, "eth0").Attrs().Index; got != index {
		t.Fatalf("the kernel gave it the index %d, it had %d", got, index)
	}
	settle(t, joined)
	passes(t, pod, host, tap, "eth0")
	if err := joined.Close(); err != nil {
		t.Fatal(err)
	}
	if got := pod.filters(t, "eth0"); got != 0 {
		t.Errorf("%d filters are left", got)
	}
}

// TestMulticastAfterComingBack is of an interface that filters groups.
func TestMulticastAfterComingBack(t *testing.T) {
	lower, host, pod, away := newSpace(t), newSpace(t), newSpace(t), newSpace(t)
	lower.veth(t, host, "lower")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace = "eth0", lower.link(t, "lower").Attrs().Index, netlink.NsFd(pod.file.Fd())
	if err := lower.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Fatalf("no macvlan: %v", err)
	}
	pod.up(t, "eth0")
	joined, _, tap := join(t, pod, network.ModelTC)
	if err := joined.Prepare(); err != nil {
		t.Fatal(err)
	}
	settle(t, joined)
	peer := host.socket(t, "host-lower")
	receive := func(text string) {
		t.Helper()
		group, from := net.HardwareAddr{1, 0, 0x5e, 1, 2, 3}, host.link(t, "host-lower").Attrs().HardwareAddr
		if _, err := unix.Write(peer, frame(group, from, text)); err != nil {
			t.Fatal(err)
		}
		readTap(t, tap, text)
	}
	receive("at first")
	index := pod.link(t, "eth0").Attrs().Index
	if err := pod.LinkSetNsFd(pod.link(t, "eth0"), int(away.file.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := away.LinkSetNsFd(away.link(t, "eth0"), int(pod.file.Fd())); err != nil {
		t.Fatal(err)
	}
	pod.up(t, "eth0")
	if got := pod.link(t, "eth0").Attrs().Index; got != index {
		t.Fatalf("the kernel gave it the index %d, it had %d", got, index)
	}
	settle(t, joined)
	receive("when it is back")
}

// TestQdiscIsDeleted by somebody, which alone makes Follow redirect again.
func TestQdiscIsDeleted(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	r, joined, _ := follow(t, pod, 0, false)
	pod.veth(t, host, "eth0")
	r.next(t) // plugs it in
	settle(t, joined)
	if err := pod.QdiscDel(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: pod.link(t, "eth0").Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
	}}); err != nil {
		t.Fatal(err)
	}
	timeout, look := time.After(10*time.Second), time.NewTicker(10*time.Millisecond)
	defer look.Stop()
	for pod.filters(t, "eth0") == 0 {
		select {
		case <-look.C:
		case <-timeout:
			t.Fatal("the redirection is gone for good")
		}
	}
}

func TestTapIsGone(t *testing.T) {
	pod, host, joined, _ := connected(t)
	name := fmt.Sprintf("kata%d", pod.link(t, "eth0").Attrs().Index)
	if err := pod.LinkSetNsFd(pod.link(t, name), int(host.file.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := joined.Sync(t.Context()); err == nil || !strings.Contains(err.Error(), "interface eth0: its tap "+name) {
		t.Errorf("error %v", err)
	}
}

func TestSyncKeepsWhatIsThere(t *testing.T) {
	pod, _, joined, _ := connected(t)
	before := pod.dump(t)
	settle(t, joined)
	if after := pod.dump(t); after != before {
		t.Errorf("a Sync without a change:\n%s", cmp.Diff(before, after))
	}
}
