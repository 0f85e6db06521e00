package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kata-runtime/guest/protocol"
)

// entries describes everything of a request but its interfaces, which links has
// by their names: addresses first, since routes rest on them.
func (n *Network) entries(links map[string]netlink.Link, request *protocol.SetNetworkRequest) ([]*entry, error) {
	var wanted []*entry
	var errs []error
	withoutIPv6 := map[string]bool{}
	for _, i := range request.GetInterfaces() {
		link := links[i.GetName()]
		if link == nil {
			continue // its NIC is missing, which is an error already
		}
		if slices.ContainsFunc(i.GetAddresses(), isIPv6) {
			errs = append(errs, wrap(i.GetName(), "switch IPv6 on", n.allowIPv6(link)))
			// A container's sysctl may have switched it off: then it stays so.
			withoutIPv6[i.GetName()] = isIPv6Off(link)
		}
		for _, a := range i.GetAddresses() {
			if isIPv6(a) && withoutIPv6[i.GetName()] {
				continue
			}
			wanted = append(wanted, addressEntry(i.GetName(), link.Attrs().Index, a))
		}
	}
	missing := func(name string) bool { return links[name] == nil && isRequested(request, name) }
	shared := map[string]int{}
	for _, r := range request.GetRoutes() {
		shared[slot(r)]++
	}
	for _, r := range request.GetRoutes() {
		if slices.ContainsFunc(r.GetHops(), func(h *protocol.NetworkHop) bool {
			return missing(h.GetInterface()) || r.GetFamily() == unix.AF_INET6 && withoutIPv6[h.GetInterface()]
		}) {
			continue
		}
		e, err := n.routeEntry(r, links, shared[slot(r)] > 1)
		if err != nil {
			errs = append(errs, fmt.Errorf("route to %s: %w", destination(r), err))
			continue
		}
		wanted = append(wanted, e)
	}
	for _, neighbour := range request.GetNeighbours() {
		name := neighbour.GetInterface()
		if missing(name) || len(neighbour.GetAddress()) == net.IPv6len && withoutIPv6[name] {
			continue
		}
		if links[name] == nil {
			errs = append(errs, fmt.Errorf("neighbour %v: there is no interface %s", net.IP(neighbour.GetAddress()), name))
			continue
		}
		wanted = append(wanted, neighbourEntry(neighbour, links[name].Attrs().Index))
	}
	for _, rule := range request.GetRules() {
		wanted = append(wanted, ruleEntry(rule))
	}
	return wanted, errors.Join(errs...)
}

func isRequested(request *protocol.SetNetworkRequest, name string) bool {
	return slices.ContainsFunc(request.GetInterfaces(), func(i *protocol.NetworkInterface) bool { return i.GetName() == name })
}

// message is a part of a key: the same for equal messages.
func message(m proto.Message) string {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		// A message that came over the wire goes back; a key of its own is
		// merely set again.
		return fmt.Sprintf("%p", m)
	}
	return string(data)
}

// addressEntry's slot is for the same address with what the kernel changes of
// one that is there.
func addressEntry(name string, index int, a *protocol.NetworkAddress) *entry {
	same := proto.CloneOf(a)
	same.Deprecated, same.PrefixRoutePriority = false, 0
	return &entry{
		key:    fmt.Sprintf("address %d %s", index, message(a)),
		slot:   fmt.Sprintf("address %d %s", index, message(same)),
		owner:  ownedBy(name),
		what:   fmt.Sprintf("address %v/%d", net.IP(a.GetAddress()), a.GetPrefixLength()),
		set:    func() error { return changeAddress(a, index, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE) },
		remove: func() error { return changeAddress(a, index, unix.RTM_DELADDR, 0) },
	}
}

func ownedBy(name string) string { return "interface " + name + ": " }

// changeAddress adds or removes an address. It is not the library's, which has no
// word for the priority of the route that the kernel makes of it.
func changeAddress(a *protocol.NetworkAddress, index, operation, flags int) error {
	family := unix.AF_INET
	if isIPv6(a) {
		family = unix.AF_INET6
	}
	header := nl.NewIfAddrmsg(family)
	header.Index, header.Scope, header.Prefixlen = uint32(index), uint8(a.GetScope()), uint8(a.GetPrefixLength())
	request := nl.NewNetlinkRequest(operation, flags|unix.NLM_F_ACK)
	request.AddData(header)
	attributes := &attributes{}
	attributes.bytes(unix.IFA_LOCAL, a.GetAddress())
	if len(a.GetPeer()) > 0 {
		attributes.bytes(unix.IFA_ADDRESS, a.GetPeer())
	} else {
		attributes.bytes(unix.IFA_ADDRESS, a.GetAddress())
	}
	attributes.number(unix.IFA_FLAGS, addressFlags(a))
	attributes.bytes(unix.IFA_BROADCAST, a.GetBroadcast())
	if a.GetLabel() != "" {
		attributes.bytes(unix.IFA_LABEL, nl.ZeroTerminated(a.GetLabel()))
	}
	if a.GetPrefixRoutePriority() != 0 {
		attributes.number(unix.IFA_RT_PRIORITY, a.GetPrefixRoutePriority())
	}
	attributes.bytes(unix.IFA_CACHEINFO, lifetimes(a))
	for _, attribute := range *attributes {
		request.AddData(attribute)
	}
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// lifetimes is a struct ifa_cacheinfo: no end, but of preference.
func lifetimes(a *protocol.NetworkAddress) []byte {
	const forever = math.MaxUint32
	preferred := uint32(forever)
	if a.GetDeprecated() {
		preferred = 0
	}
	var data []byte
	for _, value := range []uint32{preferred, forever, 0, 0} { // the last two are the kernel's
		data = binary.NativeEndian.AppendUint32(data, value)
	}
	return data
}

func addressFlags(a *protocol.NetworkAddress) uint32 {
	var flags uint32
	if a.GetNoPrefixRoute() {
		flags |= unix.IFA_F_NOPREFIXROUTE
	}
	if a.GetHomeAddress() {
		flags |= unix.IFA_F_HOMEADDRESS
	}
	if a.GetJoinMulticast() {
		flags |= unix.IFA_F_MCAUTOJOIN
	}
	if isIPv6(a) {
		// Nobody else has it: it is the pod's, whose namespace has looked.
		flags |= unix.IFA_F_NODAD
	}
	return flags
}

func isIPv6(a *protocol.NetworkAddress) bool { return len(a.GetAddress()) == net.IPv6len }

// sysctls is where the kernel has an interface's settings, by its name; those of
// the namespace of the thread that looks.
const sysctls = "/proc/sys/net"

// prepare chooses what differs from the kernel's defaults, once, before an
// interface is up for the first time; what containers set later stays.
func (n *Network) prepare(i *protocol.NetworkInterface, link netlink.Link) error {
	if _, done := n.prepared[link.Attrs().Index]; done {
		return nil
	}
	// The addresses are the host's, the link-local one too. A kernel without IPv6
	// refuses.
	_ = netlink.LinkSetIP6AddrGenMode(link, 1) // IN6_ADDR_GEN_MODE_NONE
	// Other addresses of a network outlive the removal of its first one.
	if err := setSysctl("ipv4", link, "promote_secondaries", "1"); err != nil {
		return wrap(i.GetName(), "prepare it", err)
	}
	// An interface that is up has a link-local address, unless IPv6 is off on the
	// host. Then the guest is not to take addresses from routers either.
	off := !slices.ContainsFunc(i.GetAddresses(), isIPv6)
	if off {
		if err := setSysctl("ipv6", link, "disable_ipv6", "1"); err != nil {
			return wrap(i.GetName(), "prepare it", err)
		}
	}
	n.prepared[link.Attrs().Index] = off
	return nil
}

// allowIPv6 takes back what prepare has switched off.
func (n *Network) allowIPv6(link netlink.Link) error {
	if !n.prepared[link.Attrs().Index] {
		return nil
	}
	if err := setSysctl("ipv6", link, "disable_ipv6", "0"); err != nil {
		return err
	}
	n.prepared[link.Attrs().Index] = false
	return nil
}

func isIPv6Off(link netlink.Link) bool {
	value, err := os.ReadFile(filepath.Join(sysctls, "ipv6", "conf", link.Attrs().Name, "disable_ipv6"))
	return err == nil && strings.TrimSpace(string(value)) == "1"
}

// setSysctl leaves alone what the kernel does not have: IPv6, or an interface
// whose MTU is too small for it.
func setSysctl(family string, link netlink.Link, setting, value string) error {
	path := filepath.Join(sysctls, family, "conf", link.Attrs().Name, setting)
	if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set %s: %w", setting, err)
	}
	return nil
}
