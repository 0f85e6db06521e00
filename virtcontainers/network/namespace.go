package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/osthread"
)

// Namespace is an open network namespace: it lives at least as long.
type Namespace struct {
	file *os.File
	// netlink's sockets are in the namespace, whoever calls.
	netlink *netlink.Handle
}

// OpenNamespace opens the network namespace at path, such as /run/netns/x or
// /proc/PID/ns/net. It needs CAP_SYS_ADMIN.
func OpenNamespace(path string) (*Namespace, error) {
	file, err := namespace.Open(specs.NetworkNamespace, path)
	if err != nil {
		return nil, err
	}
	return NewNamespace(file)
}

// NewNamespace is OpenNamespace for one that is open already: it takes over file,
// also when it fails.
func NewNamespace(file *os.File) (*Namespace, error) {
	n := &Namespace{file: file}
	// Not by NewHandleAt: it lets the thread go on, whether or not that is back.
	err := n.Do(func() (err error) {
		n.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink in network namespace %s: %w", file.Name(), err), file.Close())
	}
	return n, nil
}

// File is the open namespace; it stays this Namespace's.
func (n *Namespace) File() *os.File { return n.file }

// Do calls f on a thread that is in the namespace.
func (n *Namespace) Do(f func() error) error {
	return osthread.Run(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.file.Name(), err)
		}
		return f()
	})
}

// Close lets go of the namespace. Idempotent.
func (n *Namespace) Close() error {
	n.netlink.Close()
	if err := n.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close the network namespace: %w", err)
	}
	return nil
}
