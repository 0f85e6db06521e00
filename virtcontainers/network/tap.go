package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/osthread"
)

const (
	// tunPath is where the kernel makes taps.
	tunPath = "/dev/net/tun"
	// spareName is a tap's name in its own namespace, where it is alone but for
	// loopback.
	spareName = "kata0"
)

// ErrNoTap says that this host cannot make taps: there is no /dev/net/tun.
var ErrNoTap = errors.New("the host has no " + tunPath)

// Tap is a tap interface. It goes when its files, and every duplicate of them,
// are closed. It begins in a network namespace of its own, where nobody sees
// it, and can be moved to a pod's and back while a VM uses it.
type Tap struct {
	// Files are its queues, Vhost as many open /dev/vhost-net, or none.
	Files, Vhost []*os.File
	// MAC is the permanent address of the VM's NIC, drawn at random.
	MAC net.HardwareAddr

	home *Namespace
	pod  *Namespace // nil while it is at home; not this Tap's
	name string     // in the namespace that it is in

	// macvtapOf is the namespace in which the interface, with this index, is a
	// macvtap that stays where it was made; nil for a tap.
	macvtapOf *Namespace
	index     int
	mark      *os.File // tells other runtimes that the macvtap is used
}

// NewTap makes a tap with this many queues, 1 to 256, which are worked by
// the host's kernel if vhost is set and it can. Offloads are negotiated by the
// VMM (IFF_VNET_HDR). It wraps ErrNoTap on a host without taps; it needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN.
func NewTap(queues int, vhost bool) (*Tap, error) {
	t := &Tap{name: spareName}
	err := t.make(queues)
	if err == nil && vhost {
		t.Vhost, err = openVhost(queues)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a tap: %w", err), t.Close())
	}
	return t, nil
}

func (t *Tap) make(queues int) (err error) {
	if t.MAC, err = newMAC(); err != nil {
		return err
	}
	var home *os.File
	err = osthread.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		// The files remember the namespace of the thread that opens them.
		for range queues {
			file, err := openQueue(spareName, queues > 1)
			if err != nil {
				return err
			}
			t.Files = append(t.Files, file)
		}
		return nil
	})
	if err != nil {
		if home != nil {
			home.Close()
		}
		return err
	}
	t.home, err = NewNamespace(home)
	return err
}

func openQueue(name string, several bool) (*os.File, error) {
	file, err := os.OpenFile(tunPath, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, ErrNoTap
	}
	if err != nil {
		return nil, err
	}
	if err := setTapFlags(file, name, several); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func setTapFlags(file *os.File, name string, several bool) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if several {
		flags |= unix.IFF_MULTI_QUEUE
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(int(file.Fd()), unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	return nil
}

// vhostPath is the kernel's back end for virtio NICs.
const vhostPath = "/dev/vhost-net"

// openVhost opens one back end for each queue; none on a host without.
func openVhost(queues int) (files []*os.File, err error) {
	for range queues {
		file, err := os.OpenFile(vhostPath, os.O_RDWR, 0)
		if err == nil {
			files = append(files, file)
			continue
		}
		for _, opened := range files {
			opened.Close()
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, fs.ErrPermission) {
			return nil, nil
		}
		return nil, err
	}
	return files, nil
}

// NIC is the device of the VM on this tap.
func (t *Tap) NIC(id string) *hypervisor.NIC {
	return &hypervisor.NIC{ID: id, Tap: t.Files, Vhost: t.Vhost, MAC: t.MAC}
}

// newMAC draws a locally administered unicast address.
func newMAC() (net.HardwareAddr, error) {
	mac := make(net.HardwareAddr, 6)
	if _, err := rand.Read(mac); err != nil {
		return nil, fmt.Errorf("draw a MAC address: %w", err)
	}
	mac[0] = mac[0]&^1 | 2
	return mac, nil
}

// enter moves the tap into a pod's namespace, under a name that is free there,
// and returns its index.
func (t *Tap) enter(pod *Namespace, name string, mtu int) (index int, err error) {
	if err := t.leave(); err != nil { // where an earlier attempt to has failed
		return 0, err
	}
	link, err := t.move(t.home, pod, name)
	if err != nil {
		return 0, fmt.Errorf("move the tap into the namespace: %w", err)
	}
	t.pod = pod
	// Otherwise the host's own IPv6 messages would reach the guest. A kernel
	// without IPv6 has none.
	_ = pod.netlink.LinkSetIP6AddrGenMode(link, 1) // IN6_ADDR_GEN_MODE_NONE
	if err := pod.netlink.LinkSetMTU(link, mtu); err != nil {
		return 0, fmt.Errorf("set the tap's MTU %d: %w", mtu, err)
	}
	if err := pod.netlink.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set the tap up: %w", err)
	}
	return link.Attrs().Index, nil
}

// leave moves the tap back into its own namespace.
func (t *Tap) leave() error {
	if t.pod == nil {
		return nil
	}
	if _, err := t.move(t.pod, t.home, spareName); err != nil {
		return fmt.Errorf("take the tap out of the namespace: %w", err)
	}
	t.pod = nil
	return nil
}

// move renames the tap first: the name must be free in both namespaces.
func (t *Tap) move(from, to *Namespace, name string) (netlink.Link, error) {
	link, err := from.netlink.LinkByName(t.name)
	if err != nil {
		return nil, err
	}
	if err := from.netlink.LinkSetDown(link); err != nil {
		return nil, err
	}
	if name != t.name {
		if err := from.netlink.LinkSetName(link, name); err != nil {
			return nil, err
		}
		t.name = name
	}
	if err := from.netlink.LinkSetNsFd(link, int(netns.NsHandle(to.file.Fd()))); err != nil {
		return nil, err
	}
	return to.netlink.LinkByName(name)
}

// Close removes the tap. Idempotent.
func (t *Tap) Close() error {
	var errs []error
	for _, file := range slices.Concat(t.Files, t.Vhost) {
		if err := file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, fmt.Errorf("close the tap: %w", err))
		}
	}
	if t.home != nil {
		errs = append(errs, t.home.Close())
	}
	if t.macvtapOf != nil { // unlike a tap, it outlives its files
		errs = append(errs, t.macvtapOf.removeLink(t.name))
		t.macvtapOf = nil
	}
	if t.mark != nil { // when the interface is gone
		errs = append(errs, t.mark.Close())
		t.mark = nil
	}
	return errors.Join(errs...)
}

// removeLink removes an interface, if it is there.
func (n *Namespace) removeLink(name string) error {
	link, err := n.netlink.LinkByName(name)
	if err == nil {
		err = n.netlink.LinkDel(link)
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}
