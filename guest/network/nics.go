package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// virtioNet is where the kernel's driver of virtio NICs lists its devices.
const virtioNet = "/sys/bus/virtio/drivers/virtio_net"

// nics are the guest's virtio NICs. One that nothing is behind is parked: its
// driver does not have it, so that no interface shows. The device stays plugged
// in: giving it back to the driver takes milliseconds, where hot-plug takes half
// a second.
type nics struct {
	driver string // the driver's directory in sysfs
	parked []string
	// find tells whether an interface is that of the NIC with this address.
	find func(link netlink.Link, mac []byte) bool
}

func byPermanentAddress(link netlink.Link, mac []byte) bool {
	address := link.Attrs().PermHWAddr
	if len(address) == 0 {
		address = link.Attrs().HardwareAddr
	}
	return bytes.Equal(address, mac)
}

// Park takes every virtio NIC from its driver but those with one of the
// permanent addresses, so that a pod without a network sees loopback and
// nothing else. A kernel without the driver has nothing to park.
func (n *Network) Park(keep [][]byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.park(keep)
}

func (n *nics) park(keep [][]byte) error {
	entries, err := os.ReadDir(n.driver)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("park network interfaces: %w", err)
	}
	for _, entry := range entries {
		// Beside the devices, virtio0 and so on, stand the driver's own files.
		if !strings.HasPrefix(entry.Name(), "virtio") || n.isKept(entry.Name(), keep) {
			continue
		}
		if err := os.WriteFile(filepath.Join(n.driver, "unbind"), []byte(entry.Name()), 0); err != nil {
			return fmt.Errorf("park network interface %s: %w", entry.Name(), err)
		}
		n.parked = append(n.parked, entry.Name())
	}
	return nil
}

func (n *nics) isKept(device string, keep [][]byte) bool {
	if len(keep) == 0 {
		return false
	}
	names, err := os.ReadDir(filepath.Join(n.driver, device, "net"))
	if err != nil {
		return false
	}
	for _, name := range names {
		link, err := netlink.LinkByName(name.Name())
		if err != nil {
			continue
		}
		for _, mac := range keep {
			if n.find(link, mac) {
				return true
			}
		}
	}
	return false
}

// unpark gives all parked NICs back to the driver.
func (n *nics) unpark() error {
	for len(n.parked) > 0 {
		device := n.parked[len(n.parked)-1]
		err := os.WriteFile(filepath.Join(n.driver, "bind"), []byte(device), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !isNoDevice(err) { // unplugged meanwhile
			return fmt.Errorf("take network interface %s out of the park: %w", device, err)
		}
		n.parked = n.parked[:len(n.parked)-1]
	}
	return nil
}

// await returns the interfaces of the NICs with these addresses, in their
// order, waiting for those that are still to appear.
func (n *nics) await(ctx context.Context, macs [][]byte) ([]netlink.Link, error) {
	found, _, err := n.lookup(macs)
	if err != nil || found != nil {
		return found, err
	}
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		return nil, fmt.Errorf("watch network interfaces: %w", err)
	}
	if err := n.unpark(); err != nil {
		return nil, err
	}
	for {
		found, lacking, err := n.lookup(macs)
		if err != nil || found != nil {
			return found, err
		}
		select {
		case _, open := <-updates:
			if !open {
				return nil, errors.New("watch network interfaces: the kernel's messages ended")
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the NIC with address %s: %w", lacking, context.Cause(ctx))
		}
	}
}

// lookup returns nil, and an address that is missing, unless all are there.
func (n *nics) lookup(macs [][]byte) (found []netlink.Link, lacking string, err error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, "", fmt.Errorf("list network interfaces: %w", err)
	}
	found = make([]netlink.Link, 0, len(macs))
	for _, mac := range macs {
		before := len(found)
		for _, link := range links {
			if n.find(link, mac) {
				found = append(found, link)
				break
			}
		}
		if len(found) == before {
			return nil, hardware(mac), nil
		}
	}
	return found, "", nil
}
