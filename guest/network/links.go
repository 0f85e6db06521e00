package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

func hardware(mac []byte) string { return net.HardwareAddr(mac).String() }

func isNoDevice(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.As(err, &netlink.LinkNotFoundError{})
}

// setLinks makes the interfaces, all but their addresses, and parks the NICs
// that are behind none. The result has them by their names.
func (n *Network) setLinks(ctx context.Context, request *protocol.SetNetworkRequest) (map[string]netlink.Link, error) {
	lo, err := netlink.LinkByName(loopback)
	if err != nil {
		return nil, fmt.Errorf("find loopback: %w", err)
	}
	links := map[string]netlink.Link{loopback: lo}
	var wanted []*protocol.NetworkInterface
	var macs [][]byte
	for _, i := range request.GetInterfaces() {
		if len(i.GetDeviceMac()) > 0 {
			wanted, macs = append(wanted, i), append(macs, i.GetDeviceMac())
		}
	}
	found, err := n.await(ctx, macs)
	if err != nil {
		return nil, err
	}
	if err := n.park(macs); err != nil {
		return nil, err
	}
	if err := n.rename(wanted, found); err != nil {
		return nil, err
	}
	for j, i := range wanted {
		if err := setLink(i, found[j]); err != nil {
			return nil, err
		}
		links[i.GetName()] = found[j]
	}
	return links, nil
}

// rename gives interfaces their names: first those of interfaces whose names
// others are to have are taken away.
func (n *Network) rename(wanted []*protocol.NetworkInterface, found []netlink.Link) error {
	change := func(link netlink.Link, name string) error {
		if err := netlink.LinkSetDown(link); err != nil { // this kernel renames no interface that is up
			return wrap(link.Attrs().Name, "set it down", err)
		}
		if err := netlink.LinkSetName(link, name); err != nil {
			return wrap(link.Attrs().Name, "name it "+name, err)
		}
		link.Attrs().Name = name
		link.Attrs().Flags &^= net.FlagUp
		return nil
	}
	for j, i := range wanted {
		if found[j].Attrs().Name != i.GetName() {
			if err := change(found[j], "kata-nic"+strconv.Itoa(j)); err != nil {
				return err
			}
		}
	}
	for j, i := range wanted {
		if found[j].Attrs().Name != i.GetName() {
			if err := change(found[j], i.GetName()); err != nil {
				return err
			}
		}
	}
	return nil
}

// setLink sets what differs.
func setLink(i *protocol.NetworkInterface, link netlink.Link) error {
	attrs := link.Attrs()
	if !bytes.Equal(attrs.HardwareAddr, i.GetMac()) {
		if attrs.Flags&net.FlagUp != 0 {
			if err := netlink.LinkSetDown(link); err != nil {
				return wrap(i.GetName(), "set it down", err)
			}
			attrs.Flags &^= net.FlagUp
		}
		if err := netlink.LinkSetHardwareAddr(link, i.GetMac()); err != nil {
			return wrap(i.GetName(), "set address "+hardware(i.GetMac()), err)
		}
		attrs.HardwareAddr = i.GetMac()
	}
	if attrs.MTU != int(i.GetMtu()) {
		if err := netlink.LinkSetMTU(link, int(i.GetMtu())); err != nil {
			return wrap(i.GetName(), fmt.Sprintf("set MTU %d", i.GetMtu()), err)
		}
		attrs.MTU = int(i.GetMtu())
	}
	if noARP := attrs.RawFlags&unix.IFF_NOARP != 0; noARP != i.GetNoArp() {
		set := netlink.LinkSetARPOn
		if i.GetNoArp() {
			set = netlink.LinkSetARPOff
		}
		if err := set(link); err != nil {
			return wrap(i.GetName(), "switch ARP", err)
		}
	}
	switch up := attrs.Flags&net.FlagUp != 0; {
	case i.GetUp() && !up:
		// The addresses are the host's, the link-local one too. A kernel
		// without IPv6 refuses.
		_ = netlink.LinkSetIP6AddrGenMode(link, 1) // IN6_ADDR_GEN_MODE_NONE
		if err := netlink.LinkSetUp(link); err != nil {
			return wrap(i.GetName(), "set it up", err)
		}
	case !i.GetUp() && up:
		if err := netlink.LinkSetDown(link); err != nil {
			return wrap(i.GetName(), "set it down", err)
		}
	}
	return nil
}

func (n *Network) setAddresses(links map[string]netlink.Link, request *protocol.SetNetworkRequest) error {
	var errs []error
	for _, i := range request.GetInterfaces() {
		for _, a := range i.GetAddresses() {
			if err := netlink.AddrReplace(links[i.GetName()], address(a)); err != nil {
				errs = append(errs, wrap(i.GetName(), "set address "+text(a), err))
			}
		}
		if i.GetAnnounce() {
			errs = append(errs, wrap(i.GetName(), "announce it", announce(i, links[i.GetName()])))
		}
	}
	return errors.Join(errs...)
}

func address(a *protocol.NetworkAddress) *netlink.Addr {
	bits := 8 * len(a.GetAddress())
	mask := net.CIDRMask(int(a.GetPrefixLength()), bits)
	result := &netlink.Addr{
		IPNet: &net.IPNet{IP: a.GetAddress(), Mask: mask}, Scope: int(a.GetScope()), Label: a.GetLabel(),
		Broadcast: a.GetBroadcast(),
	}
	if len(a.GetBroadcast()) == 0 && len(a.GetAddress()) == net.IPv4len {
		result.Broadcast = net.IPv4zero // stands for none; without it there would be the usual one
	}
	if len(a.GetPeer()) > 0 {
		result.Peer = &net.IPNet{IP: a.GetPeer(), Mask: mask}
		result.IPNet.Mask = net.CIDRMask(bits, bits)
	}
	if a.GetNoPrefixRoute() {
		result.Flags |= unix.IFA_F_NOPREFIXROUTE
	}
	if len(a.GetAddress()) == net.IPv6len {
		// Nobody else has it: it is the pod's, whose namespace has looked.
		result.Flags |= unix.IFA_F_NODAD
	}
	return result
}

func text(a *protocol.NetworkAddress) string {
	return fmt.Sprintf("%v/%d", net.IP(a.GetAddress()), a.GetPrefixLength())
}

// remove takes away what the host has brought before and the request lacks,
// but for NICs.
func (n *Network) remove(before, request *protocol.SetNetworkRequest) error {
	var errs []error
	for _, rule := range missing(before.GetRules(), request.GetRules()) {
		if err := netlink.RuleDel(policy(rule)); err != nil && !isAbsent(err) {
			errs = append(errs, fmt.Errorf("remove the routing rule of priority %d: %w", rule.GetPriority(), err))
		}
	}
	links := map[string]netlink.Link{}
	for _, i := range before.GetInterfaces() {
		link, err := netlink.LinkByName(i.GetName())
		if err == nil && (len(i.GetDeviceMac()) == 0 || n.find(link, i.GetDeviceMac())) {
			links[i.GetName()] = link
		}
	}
	if lo, err := netlink.LinkByName(loopback); err == nil {
		links[loopback] = lo
	}
	for _, r := range missing(before.GetRoutes(), request.GetRoutes()) {
		route, err := route(r, links)
		if err != nil {
			continue // its interface has gone, and it with it
		}
		if err := netlink.RouteDel(route); err != nil && !isAbsent(err) {
			errs = append(errs, fmt.Errorf("remove the route to %s: %w", destination(r), err))
		}
	}
	for _, neighbour := range missing(before.GetNeighbours(), request.GetNeighbours()) {
		if link := links[neighbour.GetInterface()]; link != nil {
			if err := netlink.NeighDel(entry(neighbour, link)); err != nil && !isAbsent(err) {
				errs = append(errs, wrap(neighbour.GetInterface(), fmt.Sprintf("remove neighbour %v", net.IP(neighbour.GetAddress())), err))
			}
		}
	}
	for _, i := range before.GetInterfaces() {
		link := links[i.GetName()]
		if link == nil {
			continue
		}
		for _, a := range missing(i.GetAddresses(), addressesOf(request, i)) {
			if err := netlink.AddrDel(link, address(a)); err != nil && !isAbsent(err) {
				errs = append(errs, wrap(i.GetName(), "remove address "+text(a), err))
			}
		}
	}
	return errors.Join(errs...)
}

// addressesOf finds the same NIC's addresses in a request.
func addressesOf(request *protocol.SetNetworkRequest, of *protocol.NetworkInterface) []*protocol.NetworkAddress {
	for _, i := range request.GetInterfaces() {
		if bytes.Equal(i.GetDeviceMac(), of.GetDeviceMac()) {
			return i.GetAddresses()
		}
	}
	return nil
}

// isAbsent tells that there was nothing to remove.
func isAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL) || isNoDevice(err)
}
