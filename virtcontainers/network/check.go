package network

import (
	"errors"
	"fmt"
)

// Check tries, out of everybody's sight, what connecting a VM by traffic control
// needs of the host: a tap, and a filter that redirects what it receives. It
// wraps ErrNoTap on a host without taps.
func Check() (err error) {
	tap, err := NewTap(1, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tap.Close()) }()
	link, err := tap.home.netlink.LinkByName(tap.name)
	if err != nil {
		return fmt.Errorf("find the tap: %w", err)
	}
	return tap.home.redirect(link, link.Attrs().Index)
}
