package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// endpoint is an interface of the namespace with its NIC of the VM.
type endpoint struct {
	name  string // the interface's, for messages
	index int
	ours  int // index of the tap or macvtap in the namespace
	mtu   int
	tap   *Tap
	// spare tells that the VM has the NIC for good; otherwise it was plugged in
	// under the id device.
	spare  bool
	device string
	// groups is open as long as the interface takes all multicast groups: the
	// guest joins more than the host's kernel does. nil: it need not.
	groups *os.File
}

// connect ties an interface of the namespace to a NIC of the VM. The caller
// holds mu.
func (n *Network) connect(ctx context.Context, i Interface) (err error) {
	e := &endpoint{name: i.Guest.GetName(), index: i.Index, mtu: int(i.Guest.GetMtu())}
	defer func() {
		if err != nil {
			err = fmt.Errorf("connect interface %s (%s): %w", e.name, i.Kind, err)
		}
	}()
	if n.options.Model == ModelTC && len(n.spare) > 0 {
		e.tap, e.spare = n.spare[0], true
	} else if e.tap, err = n.newTap(i); err != nil {
		return err
	}
	if err := n.tie(ctx, e, i); err != nil {
		err = errors.Join(err, e.disconnect(n.namespace))
		if !e.spare {
			err = errors.Join(err, e.tap.Close())
		}
		return err
	}
	if e.spare {
		n.spare = n.spare[1:]
	}
	n.endpoints[i.Index] = e
	return nil
}

// devicePrefix and a serial number are the id of a NIC that is plugged in.
const devicePrefix = "hotnic"

func (n *Network) newTap(i Interface) (*Tap, error) {
	if n.options.Model == ModelMacvtap {
		return n.namespace.newMacvtap(i, n.options.Queues, n.options.Vhost)
	}
	return NewTap(n.options.Queues, n.options.Vhost)
}

// tie connects both ways, and plugs in a NIC that is not there yet.
func (n *Network) tie(ctx context.Context, e *endpoint, i Interface) (err error) {
	if n.options.Model == ModelMacvtap {
		e.ours = e.tap.index
	} else if err := e.tie(n.namespace, i); err != nil {
		return err
	}
	if e.spare {
		return nil
	}
	n.serial++
	e.device = devicePrefix + strconv.Itoa(n.serial)
	if err := n.options.Machine.Attach(ctx, e.tap.NIC(e.device)); err != nil {
		return fmt.Errorf("plug in a NIC: %w", err)
	}
	return nil
}

// tie moves the tap beside the interface and redirects both ways.
func (e *endpoint) tie(namespace *Namespace, i Interface) (err error) {
	link, err := namespace.netlink.LinkByIndex(e.index)
	if err != nil {
		return err
	}
	if err := namespace.checkFree(link); err != nil { // before the tap's name can be in the way
		return err
	}
	if e.ours, err = e.tap.enter(namespace, tapName(e.index), e.mtu); err != nil {
		return err
	}
	if err := e.takeGroups(namespace, i); err != nil {
		return err
	}
	tap, err := namespace.netlink.LinkByIndex(e.ours)
	if err != nil {
		return err
	}
	if err := namespace.redirect(tap, e.index); err != nil {
		return err
	}
	if i.Port {
		return nil // what it receives reaches the guest through its master
	}
	return namespace.redirect(link, e.ours)
}

// tapName is the name of the runtime's own interface beside the one with an
// index.
func tapName(index int) string { return "kata" + strconv.Itoa(index) }

// takeAllGroups makes an interface receive all multicast groups while the file
// is open: one that filters would keep from the guest those that it alone has
// joined.
func (n *Namespace) takeAllGroups(index int) (file *os.File, err error) {
	err = n.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: receives nothing
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "all multicast groups")
		return unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_ALLMULTI})
	})
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, fmt.Errorf("receive all multicast groups: %w", err)
	}
	return file, nil
}

// follow adapts the host's side to changes of the interface, and makes good
// what somebody has undone.
func (e *endpoint) follow(namespace *Namespace, i Interface) error {
	e.name = i.Guest.GetName()
	tap, err := e.findTap(namespace)
	if err == nil {
		err = e.followSettings(namespace, i, tap)
	}
	if err == nil && e.tap.macvtapOf == nil {
		err = e.retie(namespace, i, tap)
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", e.name, err)
	}
	return nil
}

// findTap finds the tap, or macvtap, beside the interface.
func (e *endpoint) findTap(namespace *Namespace) (netlink.Link, error) {
	tap, err := namespace.netlink.LinkByIndex(e.ours)
	switch {
	case err == nil && tap.Attrs().Name == e.tap.name:
		return tap, nil
	case err == nil || isGone(err):
		return nil, fmt.Errorf("its tap %s has been moved, renamed or removed", e.tap.name)
	default:
		return nil, fmt.Errorf("find its tap %s: %w", e.tap.name, err)
	}
}

func (e *endpoint) followSettings(namespace *Namespace, i Interface, tap netlink.Link) error {
	if mtu := int(i.Guest.GetMtu()); mtu != e.mtu {
		if err := namespace.netlink.LinkSetMTU(tap, mtu); err != nil {
			return fmt.Errorf("set the tap's MTU %d: %w", mtu, err)
		}
		e.mtu = mtu
	}
	if tap.Attrs().Flags&net.FlagUp == 0 {
		if err := namespace.netlink.LinkSetUp(tap); err != nil {
			return fmt.Errorf("set the tap up: %w", err)
		}
	}
	return nil
}

// retie redirects again where that is missing: the interface may have left the
// namespace and come back, and anybody in it can remove a queueing discipline.
func (e *endpoint) retie(namespace *Namespace, i Interface, tap netlink.Link) error {
	link, err := namespace.netlink.LinkByIndex(e.index)
	if err != nil {
		return err
	}
	tied, err := namespace.redirects(tap, e.index)
	if err != nil {
		return err
	}
	if !tied {
		// The kernel forgets the groups too when an interface leaves.
		if err := e.takeGroups(namespace, i); err != nil {
			return err
		}
		if err := namespace.redirect(tap, e.index); err != nil {
			return err
		}
	}
	if i.Port {
		return e.unredirect(namespace, link) // it may be one only since then
	}
	if tied, err = namespace.redirects(link, e.ours); err != nil || tied {
		return err
	}
	return namespace.redirect(link, e.ours)
}

// takeGroups makes an interface that filters receive all multicast groups.
func (e *endpoint) takeGroups(namespace *Namespace, i Interface) (err error) {
	if e.groups != nil {
		e.groups.Close()
		e.groups = nil
	}
	if i.Kind != "veth" {
		e.groups, err = namespace.takeAllGroups(e.index)
	}
	return err
}

// disconnect undoes tie as far as it got.
func (e *endpoint) disconnect(namespace *Namespace) error {
	var errs []error
	link, err := namespace.netlink.LinkByIndex(e.index)
	switch {
	case err == nil:
		errs = append(errs, e.unredirect(namespace, link))
	case !isGone(err):
		errs = append(errs, fmt.Errorf("find interface %s: %w", e.name, err))
	}
	if e.groups != nil {
		errs = append(errs, e.groups.Close())
		e.groups = nil
	}
	errs = append(errs, e.tap.leave())
	return errors.Join(errs...)
}

// unredirect leaves the redirection of another VM alone.
func (e *endpoint) unredirect(namespace *Namespace, link netlink.Link) error {
	filters, err := namespace.ownFilters(link)
	if err != nil {
		return err
	}
	for _, filter := range filters {
		if to := target(filter); to != 0 && to != e.ours {
			return nil
		}
	}
	return namespace.unredirect(link)
}
