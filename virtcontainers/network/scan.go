package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
)

// ErrUnsupported is wrapped by errors about interfaces that no VM can be
// connected to.
var ErrUnsupported = errors.New("this kind of interface cannot be connected to a virtual machine")

// Interface is an interface of a namespace that is to appear in the guest.
type Interface struct {
	Index int
	// Kind is the kernel's: "veth", "macvlan"; "device" for hardware.
	Kind string
	// Port tells that it is a bridge's or bond's, to which what it receives goes.
	Port bool
	// Guest is what the guest's is to be. It has no device_mac yet.
	Guest *protocol.NetworkInterface
}

// Snapshot is what a namespace has at one time.
type Snapshot struct {
	Interfaces []Interface // in the order of their indexes
	// Loopback has the addresses of lo that the kernel does not give it; nil
	// without.
	Loopback   *protocol.NetworkInterface
	Routes     []*protocol.NetworkRoute
	Neighbours []*protocol.NetworkNeighbour
	Rules      []*protocol.NetworkRule
	// LeftOut describes the routes and rules that the guest cannot be told of.
	LeftOut []string
	// Unsupported are interfaces that are up and cannot be connected, each as an
	// error that names it and wraps ErrUnsupported.
	Unsupported []error
}

// equal tells whether the namespace had the same at both times.
func (s *Snapshot) equal(other *Snapshot) bool {
	return slices.EqualFunc(s.Interfaces, other.Interfaces, func(a, b Interface) bool {
		return a.Index == b.Index && a.Kind == b.Kind && a.Port == b.Port && proto.Equal(a.Guest, b.Guest)
	}) && proto.Equal(s.Loopback, other.Loopback) && equalMessages(s.Routes, other.Routes) &&
		equalMessages(s.Neighbours, other.Neighbours) && equalMessages(s.Rules, other.Rules) && slices.Equal(s.LeftOut, other.LeftOut) &&
		slices.EqualFunc(s.Unsupported, other.Unsupported, func(a, b error) bool { return a.Error() == b.Error() })
}

func equalMessages[M proto.Message](a, b []M) bool {
	return slices.EqualFunc(a, b, func(a, b M) bool { return proto.Equal(a, b) })
}

// scanAttempts is how often a scan is begun again because the namespace has
// changed meanwhile.
const scanAttempts = 5

// Scan reads what the namespace has. ours tells which interfaces are the
// runtime's own, by their index.
func (n *Namespace) Scan(ours func(index int) bool) (*Snapshot, error) {
	var err error
	for range scanAttempts {
		var s *Snapshot
		if s, err = n.scan(ours); !errors.Is(err, netlink.ErrDumpInterrupted) && !isGone(err) {
			return s, err
		}
	}
	return nil, err
}

func (n *Namespace) scan(ours func(int) bool) (*Snapshot, error) {
	links, err := n.netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces of network namespace %s: %w", n.file.Name(), err)
	}
	slices.SortFunc(links, func(a, b netlink.Link) int { return a.Attrs().Index - b.Attrs().Index })
	s := &Snapshot{}
	names := map[int]string{} // of interfaces that the guest has
	for _, link := range links {
		attrs := link.Attrs()
		switch {
		case ours(attrs.Index):
		case isLoopback(link):
			names[attrs.Index] = attrs.Name
			if s.Loopback, err = n.scanLoopback(link); err != nil {
				return nil, err
			}
		case isFallbackTunnel(link):
		case isOldMacvtap(link):
		case attrs.EncapType == "ether" && below(link, links) != nil:
			if attrs.Flags&net.FlagUp != 0 {
				s.Unsupported = append(s.Unsupported, fmt.Errorf("interface %s (%s): %w: it is on top of interface %s, whose frames the virtual machine takes",
					attrs.Name, link.Type(), ErrUnsupported, below(link, links).Attrs().Name))
			}
		case attrs.EncapType != "ether":
			if attrs.Flags&net.FlagUp != 0 {
				s.Unsupported = append(s.Unsupported, fmt.Errorf("interface %s (%s): %w: it carries no Ethernet frames", attrs.Name, link.Type(), ErrUnsupported))
			}
		default:
			guest, err := n.scanInterface(link)
			if err != nil {
				return nil, err
			}
			names[attrs.Index] = attrs.Name
			s.Interfaces = append(s.Interfaces, Interface{
				Index: attrs.Index, Kind: link.Type(), Port: attrs.MasterIndex != 0, Guest: guest,
			})
		}
	}
	if s.Routes, s.LeftOut, err = n.scanRoutes(names); err != nil {
		return nil, err
	}
	if s.Neighbours, err = n.scanNeighbours(names); err != nil {
		return nil, err
	}
	rules, leftOut, err := n.scanRules()
	s.Rules, s.LeftOut = rules, append(s.LeftOut, leftOut...)
	return s, err
}

// CountInterfaces tells how many interfaces of the namespace would appear in a
// guest.
func (n *Namespace) CountInterfaces() (int, error) {
	links, err := n.netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, fmt.Errorf("list the interfaces of network namespace %s: %w", n.file.Name(), err)
	}
	count := 0
	for _, link := range links {
		if !isLoopback(link) && !isFallbackTunnel(link) && link.Attrs().EncapType == "ether" {
			count++
		}
	}
	return count, nil
}

func isLoopback(link netlink.Link) bool {
	return link.Attrs().Flags&net.FlagLoopback != 0
}

// isFallbackTunnel tells whether an interface is one that the kernel's tunnel
// modules put into every namespace, and is down.
func isFallbackTunnel(link netlink.Link) bool {
	if link.Attrs().Flags&net.FlagUp != 0 {
		return false
	}
	switch link.Attrs().Name {
	case "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0", "ip6_vti0":
		return true
	default:
		return false
	}
}

// below finds the interface that one, such as a VLAN or macvlan, is on top of:
// both in the namespace, and connected the lower one would take the frames of
// both. What a bridge's or bond's port receives is left to the host.
func below(link netlink.Link, links []netlink.Link) netlink.Link {
	attrs := link.Attrs()
	switch link.Type() {
	case "veth", "netkit": // name their peer
		return nil
	}
	if attrs.ParentIndex == 0 || attrs.NetNsID >= 0 { // or the index is another namespace's
		return nil
	}
	for _, lower := range links {
		if a := lower.Attrs(); a.Index == attrs.ParentIndex && a.Index != attrs.Index && a.EncapType == "ether" && a.MasterIndex == 0 {
			return lower
		}
	}
	return nil
}

// isOldMacvtap tells whether an interface is what a runtime that was killed has
// left, or another one uses: connecting the one below finds out.
func isOldMacvtap(link netlink.Link) bool {
	attrs := link.Attrs()
	return link.Type() == "macvtap" && attrs.NetNsID < 0 && attrs.Name == tapName(attrs.ParentIndex)
}

// isGone tells that an interface was removed between two steps of a scan.
func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.As(err, &netlink.LinkNotFoundError{})
}

func (n *Namespace) scanInterface(link netlink.Link) (*protocol.NetworkInterface, error) {
	attrs := link.Attrs()
	addresses, err := n.scanAddresses(link)
	if err != nil {
		return nil, err
	}
	if attrs.Flags&net.FlagUp != 0 { // otherwise it has no routes
		if err := n.findPrefixRoutes(link, addresses); err != nil {
			return nil, err
		}
	}
	return &protocol.NetworkInterface{
		Name: attrs.Name, Mac: attrs.HardwareAddr, Mtu: uint32(attrs.MTU),
		Up: attrs.Flags&net.FlagUp != 0, NoArp: attrs.RawFlags&unix.IFF_NOARP != 0, Addresses: addresses,
	}, nil
}

func (n *Namespace) scanLoopback(link netlink.Link) (*protocol.NetworkInterface, error) {
	addresses, err := n.scanAddresses(link)
	if err != nil {
		return nil, err
	}
	addresses = slices.DeleteFunc(addresses, func(a *protocol.NetworkAddress) bool {
		return bytes.Equal(a.GetAddress(), net.IPv4(127, 0, 0, 1).To4()) || bytes.Equal(a.GetAddress(), net.IPv6loopback)
	})
	if len(addresses) == 0 {
		return nil, nil
	}
	return &protocol.NetworkInterface{Name: link.Attrs().Name, Up: true, Addresses: addresses}, nil
}

func (n *Namespace) scanAddresses(link netlink.Link) ([]*protocol.NetworkAddress, error) {
	list, err := n.netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of interface %s: %w", link.Attrs().Name, err)
	}
	var addresses []*protocol.NetworkAddress
	for _, a := range list {
		if a.IP.To4() == nil && a.Flags&unix.IFA_F_PERMANENT == 0 && a.Flags&(unix.IFA_F_MANAGETEMPADDR|unix.IFA_F_TEMPORARY) != 0 {
			continue // from a router's advertisement, which the guest hears itself
		}
		ones, _ := a.Mask.Size()
		address := &protocol.NetworkAddress{
			Address: canonical(a.IP), PrefixLength: uint32(ones), Broadcast: canonical(a.Broadcast),
			Scope: uint32(a.Scope), NoPrefixRoute: a.Flags&unix.IFA_F_NOPREFIXROUTE != 0,
			Deprecated: a.Flags&unix.IFA_F_DEPRECATED != 0, HomeAddress: a.Flags&unix.IFA_F_HOMEADDRESS != 0,
			JoinMulticast: a.Flags&unix.IFA_F_MCAUTOJOIN != 0,
		}
		if a.Label != link.Attrs().Name {
			address.Label = a.Label
		}
		if a.Peer != nil && !a.Peer.IP.Equal(a.IP) {
			ones, _ := a.Peer.Mask.Size()
			address.Peer, address.PrefixLength = canonical(a.Peer.IP), uint32(ones)
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

// findPrefixRoutes notes the priority of the routes that the kernel has made of
// addresses, and marks those whose prefix has none any more: CNI's ptp plugin
// puts its own in its place, and the guest's kernel would make it again and, with
// IPv6, prefer it.
func (n *Namespace) findPrefixRoutes(link netlink.Link, addresses []*protocol.NetworkAddress) error {
	list, err := n.netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link.Attrs().Index},
		netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF) // a table of 0 stands for all: a VRF has its own
	if err != nil {
		return fmt.Errorf("list the routes of interface %s: %w", link.Attrs().Name, err)
	}
	made := map[string]int{} // priorities
	for _, r := range list {
		if r.Protocol == unix.RTPROT_KERNEL && r.Table != unix.RT_TABLE_LOCAL && r.Dst != nil {
			ones, _ := r.Dst.Mask.Size()
			made[prefix(r.Dst.IP, ones)] = r.Priority
		}
	}
	for _, a := range addresses {
		// A single IPv4 address has none.
		bits, ones := 8*len(a.GetAddress()), int(a.GetPrefixLength())
		if a.GetNoPrefixRoute() || len(a.GetPeer()) == 0 && len(a.GetAddress()) == net.IPv4len && ones == bits {
			continue
		}
		a.NoPrefixRoute = true
		for _, network := range prefixRoutes(a) {
			if priority, ok := made[network]; ok {
				a.NoPrefixRoute, a.PrefixRoutePriority = false, changedPriority(a, priority)
				break
			}
		}
	}
	return nil
}

// prefixRoutes are the networks to which the kernel may make a route of an
// address. With a peer it is the peer's with IPv4, and one or both with IPv6.
func prefixRoutes(a *protocol.NetworkAddress) []string {
	ones := int(a.GetPrefixLength())
	networks := []string{prefix(a.GetAddress(), ones)}
	if len(a.GetPeer()) > 0 {
		networks = append(networks, prefix(a.GetPeer(), ones), prefix(a.GetPeer(), 8*len(a.GetPeer())))
	}
	return networks
}

// changedPriority is 0 for what the kernel gives the route of an address.
func changedPriority(a *protocol.NetworkAddress, priority int) uint32 {
	const ipv6Priority = 256 // IP6_RT_PRIO_ADDRCONF
	if len(a.GetAddress()) == net.IPv6len && priority == ipv6Priority {
		return 0
	}
	return uint32(priority)
}

// prefix is a network in words.
func prefix(ip net.IP, ones int) string {
	ip = canonical(ip)
	return fmt.Sprintf("%v/%d", ip.Mask(net.CIDRMask(ones, 8*len(ip))), ones)
}

// canonical is an address in 4 or 16 bytes; nil for none.
func canonical(ip net.IP) []byte {
	if v4 := ip.To4(); v4 != nil {
		return v4
	}
	return ip
}
