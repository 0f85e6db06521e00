//go:build vm

package vm

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/virtcontainers/osthread"
)

// podNetwork is a network namespace as a network plugin leaves it for a pod.
type podNetwork struct {
	*netlink.Handle
	t    testing.TB
	path string
}

// newPodNetwork makes a namespace in which each name is a veth interface whose
// other end, host-NAME, is in the test's own namespace. The n-th has the address
// 10.80.n.2/24, and the other end 10.80.n.1/24.
func newPodNetwork(h *harness.Host, names ...string) *podNetwork {
	h.T.Helper()
	n := &podNetwork{t: h.T, path: h.File("netns")}
	if err := os.WriteFile(n.path, nil, 0o600); err != nil {
		h.T.Fatal(err)
	}
	err := osthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", n.path, "", unix.MS_BIND, "")
	})
	if err != nil {
		h.T.Fatal(err)
	}
	path := n.path
	h.T.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			h.T.Error(err)
		}
	})
	namespace, err := netns.GetFromPath(n.path)
	if err != nil {
		h.T.Fatal(err)
	}
	defer namespace.Close()
	if n.Handle, err = netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE); err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(n.Close)
	n.up("lo")
	for i, name := range names {
		n.add(int(namespace), i, name)
	}
	return n
}

func (n *podNetwork) add(namespace, number int, name string) {
	n.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "host-" + name
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(namespace)})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if link, err := netlink.LinkByName(attrs.Name); err == nil {
			_ = netlink.LinkDel(link)
		}
	})
	host, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		n.t.Fatal(err)
	}
	address := func(last int) *netlink.Addr {
		a, err := netlink.ParseAddr(fmt.Sprintf("10.80.%d.%d/24", number, last))
		if err != nil {
			n.t.Fatal(err)
		}
		return a
	}
	for _, err := range []error{
		netlink.LinkSetIP6AddrGenMode(host, 1), netlink.LinkSetUp(host), netlink.AddrAdd(host, address(1)),
		n.LinkSetIP6AddrGenMode(n.link(name), 1), n.AddrAdd(n.link(name), address(2)),
	} {
		if err != nil {
			n.t.Fatal(err)
		}
	}
	n.up(name)
}

func (n *podNetwork) link(name string) netlink.Link {
	n.t.Helper()
	link, err := n.LinkByName(name)
	if err != nil {
		n.t.Fatalf("interface %s: %v", name, err)
	}
	return link
}

func (n *podNetwork) up(name string) {
	n.t.Helper()
	if err := n.LinkSetUp(n.link(name)); err != nil {
		n.t.Fatal(err)
	}
}

// describe lists what a runtime could leave behind or take away.
func (n *podNetwork) describe() string {
	n.t.Helper()
	links, err := n.LinkList()
	if err != nil {
		n.t.Fatal(err)
	}
	var b strings.Builder
	for _, link := range links {
		a := link.Attrs()
		// The carrier comes when it likes.
		flags := a.RawFlags &^ (unix.IFF_RUNNING | unix.IFF_LOWER_UP)
		fmt.Fprintf(&b, "%s %s %v mtu %d flags %x promisc %d allmulti %d\n", a.Name, link.Type(), a.HardwareAddr, a.MTU, flags, a.Promisc, a.Allmulti)
		qdiscs, err := n.QdiscList(link)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, qdisc := range qdiscs {
			fmt.Fprintf(&b, "  %s\n", qdisc.Type())
		}
		addresses, err := n.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, address := range addresses {
			fmt.Fprintf(&b, "  %v\n", address)
		}
	}
	return b.String()
}

// check compares with an earlier description.
func (n *podNetwork) check(before string) {
	n.t.Helper()
	if after := n.describe(); after != before {
		n.t.Errorf("the network namespace is not as it was:\n%s", cmp.Diff(before, after))
	}
}

// qdiscs lists the interfaces with an ingress queueing discipline.
func (n *podNetwork) qdiscs() []string {
	n.t.Helper()
	qdiscs, err := n.QdiscList(nil)
	if err != nil {
		n.t.Fatal(err)
	}
	var names []string
	for _, qdisc := range qdiscs {
		if qdisc.Type() == "ingress" {
			names = append(names, fmt.Sprint(qdisc.Attrs().LinkIndex))
		}
	}
	return names
}

// TestNetworkModels runs a pod with each way of connecting it, and with several
// queues.
func TestNetworkModels(t *testing.T) {
	for _, test := range []struct {
		name    string
		options []string
		want    string // of the interfaces, their addresses and queues
		reach   bool
	}{
		{"tcfilter, two queues", []string{`hypervisor.qemu.default_vcpus = 2`}, "eth0 10.80.0.2/24 2", true},
		{"macvtap", []string{`runtime.internetworking_model = "macvtap"`}, "eth0 10.80.0.2/24 1", true},
		{"none", []string{`runtime.internetworking_model = "none"`}, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := harness.New(t)
			configure(h, test.options...)
			network := newPodNetwork(h, "eth0")
			before := network.describe()
			spec := bundle.Spec("/bin/sh", "-c", `
				ip -o -4 addr show scope global | while read n name kind address rest; do
					echo $name $address $(ls -d /sys/class/net/$name/queues/tx-* | wc -l)
				done
				ping -c 1 -w 10 10.80.0.1 > /dev/null && echo reached`)
			bundle.Namespace(spec, specs.NetworkNamespace).Path = network.path
			want := test.want
			if test.reach {
				want += "\nreached"
			}
			result := h.Run("run", "-b", h.Bundle(spec), h.ID())
			if got := strings.TrimSpace(result.Stdout); got != want {
				t.Errorf("the pod has %q, want %q\n%s", got, want, result.Stderr)
			}
			network.check(before)
		})
	}
}
