//go:build vm

package network_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/osthread"
)

// space is a network namespace of a test's own, with netlink in it.
type space struct {
	*netlink.Handle
	file *os.File
	path string // to open it by
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{}
	err := osthread.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		s.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.file.Close() })
	s.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.file.Fd())
	if s.Handle, err = netlink.NewHandleAt(netns.NsHandle(s.file.Fd()), unix.NETLINK_ROUTE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.up(t, "lo")
	return s
}

func (s *space) link(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := s.LinkByName(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return link
}

func (s *space) up(t *testing.T, name string) {
	t.Helper()
	if err := s.LinkSetUp(s.link(t, name)); err != nil {
		t.Fatal(err)
	}
}

func (s *space) address(t *testing.T, name, cidr string) {
	t.Helper()
	address, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	address.Flags = unix.IFA_F_NODAD
	if err := s.AddrAdd(s.link(t, name), address); err != nil {
		t.Fatalf("%s: %v", cidr, err)
	}
}

// veth adds a veth interface whose other end, host-NAME, is in peer.
func (s *space) veth(t *testing.T, peer *space, name string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, 1400
	err := s.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: "host-" + name, PeerNamespace: netlink.NsFd(peer.file.Fd()),
	})
	if err != nil {
		t.Fatal(err)
	}
	// An address of the kernel's own would come some time later.
	if err := s.LinkSetIP6AddrGenMode(s.link(t, name), 1); err != nil {
		t.Fatal(err)
	}
	s.up(t, name)
	peer.up(t, "host-"+name)
}

// dump is all that a runtime could leave behind.
func (s *space) dump(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	links, err := s.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		a := link.Attrs()
		fmt.Fprintf(&b, "%d %s %s %v mtu %d queue %d flags %x promisc %d allmulti %d\n", a.Index, a.Name, link.Type(), a.HardwareAddr,
			a.MTU, a.TxQLen, a.RawFlags&^(unix.IFF_RUNNING|unix.IFF_LOWER_UP), a.Promisc, a.Allmulti) // the carrier comes when it likes
		qdiscs, err := s.QdiscList(link)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range qdiscs {
			fmt.Fprintf(&b, "  qdisc %s\n", q.Type())
		}
		filters, err := s.FilterList(link, netlink.HANDLE_MIN_INGRESS)
		if err == nil {
			for _, f := range filters {
				fmt.Fprintf(&b, "  filter %s %d\n", f.Type(), f.Attrs().Priority)
			}
		}
		addresses, err := s.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range addresses {
			fmt.Fprintf(&b, "  %v\n", address)
		}
	}
	routes, err := s.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range routes {
		if route.Table != unix.RT_TABLE_LOCAL { // the kernel's own, some of which come later
			fmt.Fprintf(&b, "%v\n", route)
		}
	}
	return b.String()
}

// machine notes what is plugged.
type machine struct {
	nics    []string
	refuse  error
	unplugs int
}

func (m *machine) Attach(_ context.Context, d hypervisor.Device) error {
	if m.refuse != nil {
		return m.refuse
	}
	m.nics = append(m.nics, d.DeviceID())
	return nil
}

func (m *machine) Detach(_ context.Context, id string) error {
	m.unplugs++
	m.nics = slices.DeleteFunc(m.nics, func(have string) bool { return have == id })
	return nil
}

type guest struct {
	machine
	told chan *protocol.SetNetworkRequest
}

// join makes a guest's connection with a namespace, with one spare tap.
func join(t *testing.T, s *space, model network.Model) (*network.Network, *guest, *network.Tap) {
	t.Helper()
	namespace, err := network.OpenNamespace(s.path)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{told: make(chan *protocol.SetNetworkRequest, 100)}
	options := network.Options{
		Machine: &g.machine, Model: model, Queues: 1, Log: slog.New(slog.DiscardHandler),
		Tell: func(_ context.Context, request *protocol.SetNetworkRequest) error {
			g.told <- request
			return nil
		},
	}
	var tap *network.Tap
	if model == network.ModelTC {
		if tap, err = network.NewTap(1, false); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tap.Close() })
		options.Spare = []*network.Tap{tap}
	}
	joined, err := network.Join(namespace, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { joined.Close() })
	return joined, g, tap
}

func names(request *protocol.SetNetworkRequest) []string {
	var list []string
	for _, i := range request.GetInterfaces() {
		list = append(list, i.GetName())
	}
	return list
}

// frame is an Ethernet frame of an experimental type (IEEE 802, 0x88b5).
func frame(to, from net.HardwareAddr, text string) []byte {
	f := slices.Concat(to, from, []byte{0x88, 0xb5}, []byte(text))
	return append(f, make([]byte, frameBytes-len(f))...)
}

// socket receives frames of that type on an interface, and sends.
func (s *space) socket(t *testing.T, name string) int {
	t.Helper()
	var fd int
	index := s.link(t, name).Attrs().Index
	err := osthread.Run(func() (err error) {
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		const protocol = 0xb588 // network order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, protocol); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: protocol})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// readTap reads until a frame holds text.
func readTap(t *testing.T, tap *network.Tap, text string) {
	t.Helper()
	fd := int(tap.Files[0].Fd()) // which makes it blocking each time
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			t.Fatalf("no frame with %q", text)
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		buffer := make([]byte, 2048)
		n, err := unix.Read(fd, buffer)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(buffer[:n]), text) {
			return
		}
	}
}
