package oci

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/osthread"
)

// NamespaceHasOnlyLoopback tells whether the network namespace at path has no
// interface but loopback, and names the others. What the kernel's tunnel
// modules put into every namespace (tunl0, sit0, ...) does not count while it
// is down. It needs CAP_SYS_ADMIN unless the namespace is the caller's.
func NamespaceHasOnlyLoopback(path string) (bool, []string, error) {
	links, err := linksOf(path)
	if err != nil {
		return false, nil, fmt.Errorf("list the interfaces of network namespace %s: %w", path, err)
	}
	var others []string
	for _, link := range links {
		if !isLoopback(link) && !isFallbackTunnel(link) {
			others = append(others, link.Attrs().Name)
		}
	}
	slices.Sort(others)
	return len(others) == 0, others, nil
}

func isLoopback(link netlink.Link) bool {
	return link.Attrs().Flags&net.FlagLoopback != 0
}

func isFallbackTunnel(link netlink.Link) bool {
	if link.Attrs().Flags&net.FlagUp != 0 {
		return false
	}
	switch link.Attrs().Name {
	case "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0", "ip6_vti0":
		return true
	default:
		return false
	}
}

func linksOf(path string) (_ []netlink.Link, err error) {
	// O_NONBLOCK: the path may be a FIFO. It is checked below.
	namespace, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, namespace.Close()) }()
	kind, err := unix.IoctlRetInt(int(namespace.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return nil, errors.New("is not a network namespace")
	}
	if isOwn(namespace) {
		return netlink.LinkList()
	}
	return listInside(namespace)
}

// listInside lists from a thread that enters the namespace and ends there.
func listInside(namespace *os.File) (links []netlink.Link, err error) {
	err = osthread.Run(func() (err error) {
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter it: %w", err)
		}
		links, err = netlink.LinkList()
		return err
	})
	return links, err
}

// isOwn tells whether this process is in the namespace already.
func isOwn(namespace *os.File) bool {
	theirs, err := namespace.Stat()
	if err != nil {
		return false
	}
	ours, err := os.Stat("/proc/self/ns/net")
	return err == nil && os.SameFile(theirs, ours)
}
