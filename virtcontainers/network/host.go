package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// userMTU is passt's: the largest frames cost the least.
const userMTU = 65520

// HostNetwork is what a guest has that shares the host's network by way of a
// network in user space: the addresses by which the host reaches the world.
type HostNetwork struct {
	Interface string // with the first default route
	Addresses []*protocol.NetworkAddress
	Gateways  []net.IP
	// MAC is the permanent address of the VM's NIC, drawn at random.
	MAC net.HardwareAddr
}

// Host reads the network of the namespace as a host's.
func (n *Namespace) Host() (*HostNetwork, error) {
	mac, err := newMAC()
	if err != nil {
		return nil, err
	}
	var host *HostNetwork
	for range scanAttempts {
		host = &HostNetwork{MAC: mac}
		if err = n.scanHost(host); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if len(host.Addresses) == 0 {
		return nil, errors.New("the host has no default route with a gateway, by which a container with its network could reach anything")
	}
	return host, nil
}

func (n *Namespace) scanHost(host *HostNetwork) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if err := n.hostFamily(host, family); err != nil {
			return err
		}
	}
	return nil
}

func (n *Namespace) hostFamily(host *HostNetwork, family int) error {
	routes, err := n.netlink.RouteList(nil, family)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the host's routes: %w", err)
	}
	for _, route := range routes {
		if route.Dst != nil {
			if ones, _ := route.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		if route.Gw == nil || route.Type != unix.RTN_UNICAST {
			continue
		}
		link, err := n.netlink.LinkByIndex(route.LinkIndex)
		if err != nil {
			return fmt.Errorf("find the interface of the host's default route: %w", err)
		}
		addresses, err := n.netlink.AddrList(link, family)
		if err != nil {
			return fmt.Errorf("list the addresses of interface %s: %w", link.Attrs().Name, err)
		}
		for _, address := range addresses {
			if address.Scope != unix.RT_SCOPE_UNIVERSE {
				continue
			}
			ones, _ := address.Mask.Size()
			host.Addresses = append(host.Addresses, &protocol.NetworkAddress{Address: canonical(address.IP), PrefixLength: uint32(ones)})
			host.Gateways = append(host.Gateways, route.Gw)
			if host.Interface == "" {
				host.Interface = link.Attrs().Name
			}
			return nil
		}
	}
	return nil
}

// Request is what the guest is to have.
func (h *HostNetwork) Request() *protocol.SetNetworkRequest {
	request := &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{{
		DeviceMac: h.MAC, Name: h.Interface, Mac: h.MAC, Mtu: userMTU, Up: true, Addresses: h.Addresses,
		Announce: true, // passt drops what comes for a guest of which it has heard nothing
	}}}
	for _, gateway := range h.Gateways {
		family := unix.AF_INET6
		if gateway.To4() != nil {
			family = unix.AF_INET
		}
		request.Routes = append(request.Routes, &protocol.NetworkRoute{
			Family: uint32(family), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_STATIC,
			Hops: []*protocol.NetworkHop{{Interface: h.Interface, Gateway: sized(gateway, family), OnLink: true}},
		})
	}
	return request
}
