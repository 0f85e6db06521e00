package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// announce announces the interfaces for which the request says so.
func (n *Network) announce(links map[string]netlink.Link, request *protocol.SetNetworkRequest) error {
	var errs []error
	for _, i := range request.GetInterfaces() {
		if link := links[i.GetName()]; link != nil && i.GetAnnounce() {
			errs = append(errs, wrap(i.GetName(), "announce it", announce(i, link)))
		}
	}
	return errors.Join(errs...)
}

// announce tells whoever listens on an interface which MAC address is behind it,
// by a gratuitous ARP request (RFC 5227, 3).
func announce(i *protocol.NetworkInterface, link netlink.Link) error {
	var address [net.IPv4len]byte // 0.0.0.0 without one
	for _, a := range i.GetAddresses() {
		if len(a.GetAddress()) == net.IPv4len {
			copy(address[:], a.GetAddress())
			break
		}
	}
	arp := binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, slices.Concat(
		bytes.Repeat([]byte{0xff}, 6), i.GetMac(), arp,
		// Ethernet, IPv4, their sizes, a request.
		[]byte{0, 1, 8, 0, 6, net.IPv4len, 0, 1},
		i.GetMac(), address[:], make([]byte, 6), address[:],
	), 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})
}
