package main

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/osthread"
)

const (
	hostAddress, hostAddress6   = "10.81.0.1", "fd81::1"
	guestAddress, guestAddress6 = "10.81.0.2", "fd81::2"
	prefix, prefix6             = "/24", "/64"
	guestInterface              = "eth0"
)

// wire is a pod's network as a network plugin makes it, and what stands for the
// host beside it: two network namespaces and a veth pair between them. It goes
// with the program, however that ends.
type wire struct{ host, pod *network.Namespace }

func newWire() (_ *wire, err error) {
	w := &wire{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make a pod's network: %w", err), w.close())
		}
	}()
	if w.host, err = newNamespace(); err != nil {
		return nil, err
	}
	if w.pod, err = newNamespace(); err != nil {
		return nil, err
	}
	if err := w.host.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "pod"
		pod := netlink.NsFd(int(w.pod.File().Fd()))
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: guestInterface, PeerNamespace: pod}); err != nil {
			return err
		}
		return setUp(attrs.Name, hostAddress+prefix, hostAddress6+prefix6)
	}); err != nil {
		return nil, err
	}
	return w, w.pod.Do(func() error {
		return errors.Join(setUp("lo"), setUp(guestInterface, guestAddress+prefix, guestAddress6+prefix6),
			addDefaultRoute(hostAddress), addDefaultRoute(hostAddress6))
	})
}

// close lets go of the namespaces; with the last user they end. Idempotent.
func (w *wire) close() error {
	var errs []error
	for _, n := range []*network.Namespace{w.pod, w.host} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

// path leads to the pod's namespace for as long as the program runs.
func (w *wire) path() string { return pathOf(w.pod) }

func pathOf(n *network.Namespace) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.File().Fd())
}

// newNamespace makes an empty network namespace.
func newNamespace() (n *network.Namespace, err error) {
	err = osthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		n, err = network.OpenNamespace("/proc/thread-self/ns/net")
		return err
	})
	return n, err
}

// namespaceOf opens the namespace that a tap is in.
func namespaceOf(tap *network.Tap) (*network.Namespace, error) {
	fd, err := unix.IoctlRetInt(int(tap.Files[0].Fd()), unix.TUNGETDEVNETNS)
	if err != nil {
		return nil, fmt.Errorf("find the tap's namespace: %w", err)
	}
	defer unix.Close(fd)
	return network.OpenNamespace(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// setUp gives an interface of the thread's namespace its addresses, which are
// usable at once: nobody asks whether another one has them.
func setUp(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	for _, text := range addresses {
		address, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if address.IP.To4() == nil {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, address); err != nil {
			return fmt.Errorf("address %s of %s: %w", text, name, err)
		}
	}
	return nil
}

func addDefaultRoute(gateway string) error {
	if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
		return fmt.Errorf("default route by %s: %w", gateway, err)
	}
	return nil
}

// tapName returns the name of the only tap of the thread's namespace.
func tapName() (string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", err
	}
	for _, link := range links {
		if link.Type() == "tuntap" {
			return link.Attrs().Name, nil
		}
	}
	return "", errors.New("the tap's namespace has no tap")
}
