package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

func hardware(mac []byte) string { return net.HardwareAddr(mac).String() }

// setLinks makes the interfaces, all but their addresses, and parks the NICs
// that are behind none. The result has, by the names that the request gives
// them, those that are there; it is nil if that is not known.
func (n *Network) setLinks(ctx context.Context, request *protocol.SetNetworkRequest) (map[string]netlink.Link, error) {
	var wanted []*protocol.NetworkInterface
	for _, i := range request.GetInterfaces() {
		if len(i.GetDeviceMac()) > 0 {
			wanted = append(wanted, i)
		}
	}
	found, err := n.await(ctx, wanted)
	// Also after a failure: what was taken out of the park goes back.
	macs := make([][]byte, len(wanted))
	for j, i := range wanted {
		macs[j] = i.GetDeviceMac()
	}
	err = errors.Join(err, n.park(macs))
	if found == nil {
		return nil, err
	}
	lo, loErr := netlink.LinkByName(loopback)
	if loErr != nil {
		return nil, errors.Join(err, fmt.Errorf("find loopback: %w", loErr))
	}
	links := map[string]netlink.Link{loopback: lo}
	errs := []error{err, rename(wanted, found)}
	for j, i := range wanted {
		if found[j] == nil {
			continue
		}
		links[i.GetName()] = found[j]
		errs = append(errs, n.setLink(i, found[j]))
	}
	maps.DeleteFunc(n.prepared, func(index int, _ bool) bool {
		return !slices.ContainsFunc(found, func(link netlink.Link) bool { return link != nil && link.Attrs().Index == index })
	})
	return links, errors.Join(errs...)
}

// rename gives interfaces their names. One whose name another one is to have
// loses it first.
func rename(wanted []*protocol.NetworkInterface, found []netlink.Link) error {
	names := map[string]bool{}
	for _, i := range wanted {
		names[i.GetName()] = true
	}
	var errs []error
	for j, i := range wanted {
		if found[j] != nil && found[j].Attrs().Name != i.GetName() && names[found[j].Attrs().Name] {
			// The index is the interface's alone, also after a failure.
			errs = append(errs, setName(found[j], "kata-nic"+strconv.Itoa(found[j].Attrs().Index)))
		}
	}
	for j, i := range wanted {
		if found[j] != nil && found[j].Attrs().Name != i.GetName() {
			errs = append(errs, setName(found[j], i.GetName()))
		}
	}
	return errors.Join(errs...)
}

func setName(link netlink.Link, name string) error {
	err := netlink.LinkSetName(link, name)
	if errors.Is(err, unix.EBUSY) { // kernels before 6.2 rename no interface that is up
		if err := setDown(link, link.Attrs().Name); err != nil {
			return err
		}
		err = netlink.LinkSetName(link, name)
	}
	if err != nil {
		return wrap(link.Attrs().Name, "name it "+name, err)
	}
	link.Attrs().Name = name
	return nil
}

func setDown(link netlink.Link, name string) error {
	if err := netlink.LinkSetDown(link); err != nil {
		return wrap(name, "set it down", err)
	}
	link.Attrs().Flags &^= net.FlagUp
	return nil
}

// setLink sets what differs, and goes on after what is refused.
func (n *Network) setLink(i *protocol.NetworkInterface, link netlink.Link) error {
	attrs := link.Attrs()
	var errs []error
	if !bytes.Equal(attrs.HardwareAddr, i.GetMac()) {
		errs = append(errs, setMAC(i, link))
	}
	if attrs.MTU != int(i.GetMtu()) {
		errs = append(errs, wrap(i.GetName(), fmt.Sprintf("set MTU %d", i.GetMtu()), netlink.LinkSetMTU(link, int(i.GetMtu()))))
	}
	if noARP := attrs.RawFlags&unix.IFF_NOARP != 0; noARP != i.GetNoArp() {
		set := netlink.LinkSetARPOn
		if i.GetNoArp() {
			set = netlink.LinkSetARPOff
		}
		errs = append(errs, wrap(i.GetName(), "switch ARP", set(link)))
	}
	switch up := attrs.Flags&net.FlagUp != 0; {
	case i.GetUp() && !up:
		errs = append(errs, n.prepare(i, link), wrap(i.GetName(), "set it up", netlink.LinkSetUp(link)))
	case !i.GetUp() && up:
		errs = append(errs, setDown(link, i.GetName()))
	}
	return errors.Join(errs...)
}

func setMAC(i *protocol.NetworkInterface, link netlink.Link) error {
	err := netlink.LinkSetHardwareAddr(link, i.GetMac())
	if errors.Is(err, unix.EBUSY) { // its driver wants it down
		if err := setDown(link, i.GetName()); err != nil {
			return err
		}
		err = netlink.LinkSetHardwareAddr(link, i.GetMac())
	}
	return wrap(i.GetName(), "set address "+hardware(i.GetMac()), err)
}
