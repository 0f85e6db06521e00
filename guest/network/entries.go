package network

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// entry is one address, route, neighbour or rule.
type entry struct {
	key string // the same for what is the same to the kernel
	// slot is the same for what takes the place of another when it is set: routes to
	// the same place, one address with other settings. Empty for what stands alone.
	slot        string
	owner, what string // for errors: "interface eth0: ", "address 10.1.2.3/24"
	// set makes the kernel have it, once or again; remove takes it away.
	set, remove func() error
}

// reconcile takes away what the host has brought before and is not wanted any
// more, and sets what is wanted, in that order, but for routes with a successor:
// it takes their place. What containers have made stays. The caller holds mu.
func (n *Network) reconcile(wanted []*entry) error {
	keys, places := map[string]bool{}, map[string]int{}
	for _, e := range wanted {
		keys[e.key] = true
		places[e.slot]++
	}
	before, had := map[string]*entry{}, map[string]int{}
	for _, e := range n.brought {
		before[e.key] = e
		had[e.slot]++
	}
	var errs []error
	var brought []*entry                // what will have been
	predecessors := map[string]*entry{} // by their slots
	for _, e := range slices.Backward(n.brought) {
		switch {
		case keys[e.key]:
		case e.slot != "" && places[e.slot] == 1 && had[e.slot] == 1:
			predecessors[e.slot] = e
		default:
			if err := e.remove(); err != nil && !isAbsent(err) {
				errs = append(errs, fmt.Errorf("%sremove %s: %w", e.owner, e.what, err))
				brought = append(brought, e)
			}
		}
	}
	slices.Reverse(brought)
	refused := setAll(wanted)
	for _, e := range wanted {
		err := refused[e]
		if err == nil {
			brought = append(brought, e)
			continue
		}
		errs = append(errs, fmt.Errorf("%sset %s: %w", e.owner, e.what, err))
		// The older one may be there still.
		if old := before[e.key]; old != nil {
			brought = append(brought, old)
		} else if old := predecessors[e.slot]; old != nil {
			brought = append(brought, old)
		}
	}
	n.brought = brought
	return errors.Join(errs...)
}

// setAll sets entries in their order, and those that were refused again as long
// as one succeeds: a route's gateway must be reachable by another route. The
// result is what the kernel refuses in the end.
func setAll(entries []*entry) map[*entry]error {
	for {
		refused := map[*entry]error{}
		var again []*entry
		for _, e := range entries {
			if err := e.set(); err != nil {
				refused[e] = err
				again = append(again, e)
			}
		}
		if len(again) == 0 || len(again) == len(entries) {
			return refused
		}
		entries = again
	}
}

// isAbsent tells that there was nothing to remove.
func isAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL) || isNoDevice(err)
}

func isNoDevice(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.As(err, &netlink.LinkNotFoundError{})
}
