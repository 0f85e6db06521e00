package network

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/namespace"
)

// The priorities of the runtime's filters, by which a later process tells them
// from others': they say whether the interface's ingress queueing discipline
// was made with the filter, and is to go with it.
const (
	priorityOwn     = 0x4b41
	priorityForeign = 0x4b42
)

// errConnected says that another VM has an interface's packets already.
var errConnected = errors.New("it is connected to a virtual machine already; two cannot share a network namespace")

// redirect sends all that interface `from` receives out of interface `to`.
func (n *Namespace) redirect(from netlink.Link, to int) error {
	if err := n.checkFree(from); err != nil {
		return err
	}
	priority := uint16(priorityOwn)
	qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
	}}
	err := n.netlink.QdiscAdd(qdisc)
	if errors.Is(err, unix.EEXIST) {
		priority, err = priorityForeign, nil
	} else if err == nil && from.Attrs().TxQLen == 0 {
		// The kernel gives an interface without a queue one, for no good here.
		err = n.netlink.LinkSetTxQLen(from, 0)
	}
	if err != nil {
		return fmt.Errorf("add an ingress queueing discipline to %s: %w", from.Attrs().Name, err)
	}
	if err := n.addFilter(from.Attrs().Index, to, priority); err != nil {
		err = fmt.Errorf("add a filter to %s: %w", from.Attrs().Name, err)
		if priority == priorityOwn {
			err = errors.Join(err, n.netlink.QdiscDel(qdisc))
		}
		return err
	}
	return nil
}

// addFilter takes u32, or matchall in a kernel without it.
func (n *Namespace) addFilter(from, to int, priority uint16) error {
	attrs := netlink.FilterAttrs{
		// For clsact as well as for ingress.
		LinkIndex: from, Parent: netlink.HANDLE_MIN_INGRESS, Priority: priority, Protocol: unix.ETH_P_ALL,
	}
	redirection := &netlink.MirredAction{
		ActionAttrs:  netlink.ActionAttrs{Action: netlink.TC_ACT_STOLEN},
		MirredAction: netlink.TCA_EGRESS_REDIR, Ifindex: to,
	}
	err := n.netlink.FilterAdd(&netlink.U32{FilterAttrs: attrs, Actions: []netlink.Action{redirection}})
	if errors.Is(err, unix.ENOENT) {
		err = n.netlink.FilterAdd(&netlink.MatchAll{FilterAttrs: attrs, Actions: []netlink.Action{redirection}})
	}
	return err
}

// ownFilters are the runtime's filters on an interface.
func (n *Namespace) ownFilters(link netlink.Link) ([]netlink.Filter, error) {
	var filters []netlink.Filter
	err := error(netlink.ErrDumpInterrupted)
	for try := 0; try < scanAttempts && errors.Is(err, netlink.ErrDumpInterrupted); try++ {
		filters, err = n.netlink.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil // there is no queueing discipline
	}
	if err != nil {
		return nil, fmt.Errorf("list the filters of interface %s: %w", link.Attrs().Name, err)
	}
	var own []netlink.Filter
	for _, filter := range filters {
		if p := filter.Attrs().Priority; p == priorityOwn || p == priorityForeign {
			own = append(own, filter)
		}
	}
	return own, nil
}

// redirects tells whether a filter of the runtime's sends what one interface
// receives out of another.
func (n *Namespace) redirects(from netlink.Link, to int) (bool, error) {
	filters, err := n.ownFilters(from)
	return slices.ContainsFunc(filters, func(f netlink.Filter) bool { return target(f) == to }), err
}

// checkFree removes what a runtime that was killed has left on an interface,
// and refuses one that a VM uses.
func (n *Namespace) checkFree(link netlink.Link) error {
	filters, err := n.ownFilters(link)
	if err != nil || len(filters) == 0 {
		return err
	}
	for _, filter := range filters {
		if to := target(filter); to != 0 {
			if _, err := n.netlink.LinkByIndex(to); err == nil {
				return errConnected
			}
		}
	}
	return n.unredirect(link)
}

// target is the index of the interface that a filter redirects to, 0 for one
// that is gone.
func target(filter netlink.Filter) int {
	var actions []netlink.Action
	switch filter := filter.(type) {
	case *netlink.U32:
		actions = filter.Actions
	case *netlink.MatchAll:
		actions = filter.Actions
	}
	for _, action := range actions {
		if mirred, ok := action.(*netlink.MirredAction); ok {
			return mirred.Ifindex
		}
	}
	return 0
}

// unredirect undoes redirect, as far as there is anything to undo.
func (n *Namespace) unredirect(link netlink.Link) error {
	filters, err := n.ownFilters(link)
	if err != nil {
		return err
	}
	for _, filter := range filters {
		attrs := filter.Attrs()
		if attrs.Priority == priorityOwn {
			err = n.netlink.QdiscDel(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
				LinkIndex: attrs.LinkIndex, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
			}})
		} else {
			err = n.netlink.FilterDel(&netlink.GenericFilter{FilterType: filter.Type(), FilterAttrs: netlink.FilterAttrs{
				LinkIndex: attrs.LinkIndex, Parent: netlink.HANDLE_MIN_INGRESS, Priority: attrs.Priority, Protocol: attrs.Protocol,
			}})
		}
		if err != nil && !errors.Is(err, unix.ENOENT) && !isGone(err) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("take the redirection from interface %s: %w", link.Attrs().Name, err)
		}
		if attrs.Priority == priorityOwn {
			return nil // the filters go with it
		}
	}
	return nil
}

// Restore removes from the network namespace at path what a runtime that was
// killed has left there. A namespace that is gone, or a path that leads
// elsewhere by now, needs none; the host's own is left alone.
func Restore(path string) error {
	n, err := OpenNamespace(path)
	if err != nil {
		return nil // gone, with all that was in it
	}
	defer n.Close()
	if hosts, err := namespace.IsHost(specs.NetworkNamespace, n.file); err != nil || hosts {
		return err
	}
	links, err := n.netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list the interfaces of network namespace %s: %w", path, err)
	}
	var errs []error
	for _, link := range links {
		errs = append(errs, n.restore(link))
	}
	return errors.Join(errs...)
}

// restore leaves alone what another VM uses.
func (n *Namespace) restore(link netlink.Link) error {
	mark, err := n.markMacvtap(link.Attrs().Index)
	if err == nil {
		err = n.removeMacvtap(link)
		mark.Close()
	}
	if err == nil {
		err = n.checkFree(link)
	}
	if errors.Is(err, errConnected) {
		return nil
	}
	return err
}

// removeMacvtap removes the runtime's macvtap on top of an interface. The caller
// holds its mark.
func (n *Namespace) removeMacvtap(lower netlink.Link) error {
	link, err := n.netlink.LinkByName(tapName(lower.Attrs().Index))
	if err != nil || link.Type() != "macvtap" || link.Attrs().ParentIndex != lower.Attrs().Index {
		return nil //nolint:nilerr // there is none
	}
	return n.removeLink(link.Attrs().Name)
}
