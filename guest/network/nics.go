package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/hotplug"
	"kata-runtime/guest/protocol"
)

// virtioNet is where the kernel's driver of virtio NICs lists its devices.
const virtioNet = "/sys/bus/virtio/drivers/virtio_net"

// nics are the guest's virtio NICs. One that nothing is behind is parked: its
// driver does not have it, so that no interface shows. The device stays plugged
// in: giving it back to the driver takes milliseconds, where hot-plug takes half
// a second.
type nics struct {
	driver string   // the driver's directory in sysfs
	parked []string // names on the virtio bus; of some that have been unplugged, too
	// find tells whether an interface is that of the NIC with this address.
	find func(link netlink.Link, mac []byte) bool
}

// byPermanentAddress believes hardware alone: a container gives interfaces of its
// own any address, but none that is permanent.
func byPermanentAddress(link netlink.Link, mac []byte) bool {
	return bytes.Equal(link.Attrs().PermHWAddr, mac)
}

// Park takes every virtio NIC from its driver but those with one of the
// permanent addresses, so that a pod without a network sees loopback and
// nothing else. A kernel without the driver has nothing to park.
func (n *Network) Park(keep [][]byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.park(keep)
}

// AwaitPlugged waits until the kernel has found the NICs with these permanent addresses,
// which were plugged in just now.
func (n *Network) AwaitPlugged(ctx context.Context, addresses [][]byte) error {
	if len(addresses) == 0 {
		return nil
	}
	wanted := make([]*protocol.NetworkInterface, len(addresses))
	for i, address := range addresses {
		wanted[i] = &protocol.NetworkInterface{Name: "NIC " + strconv.Itoa(i), DeviceMac: address}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.await(ctx, wanted); err != nil {
		return fmt.Errorf("wait for network interfaces: %w", err)
	}
	return nil
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
		err := os.WriteFile(filepath.Join(n.driver, "unbind"), []byte(entry.Name()), 0)
		if isUnplugged(err) {
			continue // meanwhile
		}
		if err != nil {
			return fmt.Errorf("park network interface %s: %w", entry.Name(), err)
		}
		if !slices.Contains(n.parked, entry.Name()) { // of one that has been unplugged
			n.parked = append(n.parked, entry.Name())
		}
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
		// It may have been unplugged, and another one that has its name now was
		// the driver's at once.
		if _, err := os.Lstat(filepath.Join(n.driver, device)); err != nil {
			err := os.WriteFile(filepath.Join(n.driver, "bind"), []byte(device), 0)
			if err != nil && !isUnplugged(err) && !errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("take network interface %s out of the park: %w", device, err)
			}
		}
		n.parked = n.parked[:len(n.parked)-1]
	}
	return nil
}

func isUnplugged(err error) bool { return errors.Is(err, os.ErrNotExist) || isNoDevice(err) }

// await returns the links of these interfaces' NICs, in their order, waiting for
// those that are still to appear. When ctx ends, the error names those that are
// missing, and they are nil in the result; the result is nil if the kernel does
// not tell.
func (n *nics) await(ctx context.Context, wanted []*protocol.NetworkInterface) ([]netlink.Link, error) {
	found, complete, err := n.lookup(wanted)
	if err != nil || complete {
		return found, err
	}
	first := true
	err = hotplug.AwaitLinks(ctx, func() (bool, error) {
		if first {
			first = false
			if err := n.unpark(); err != nil {
				return false, err
			}
		}
		var err error
		found, complete, err = n.lookup(wanted)
		return complete, err
	})
	if err == nil {
		return found, nil
	}
	if found == nil {
		return nil, err
	}
	var errs []error
	for j, i := range wanted {
		if found[j] == nil {
			errs = append(errs, wrap(i.GetName(), "find the NIC with address "+hardware(i.GetDeviceMac()), err))
		}
	}
	return found, errors.Join(errs...)
}

// lookup returns the links of the interfaces' NICs, nil for those that are
// missing, and whether none is.
func (n *nics) lookup(wanted []*protocol.NetworkInterface) (found []netlink.Link, complete bool, err error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, false, fmt.Errorf("list network interfaces: %w", err)
	}
	found, complete = make([]netlink.Link, len(wanted)), true
	for j, i := range wanted {
		at := slices.IndexFunc(links, func(link netlink.Link) bool { return n.find(link, i.GetDeviceMac()) })
		if at < 0 {
			complete = false
			continue
		}
		found[j] = links[at]
	}
	return found, complete, nil
}
