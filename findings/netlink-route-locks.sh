#!/bin/bash
# A route's locks of MTU and minimum RTO are read, and written, as if there could be one.
#
# Library: github.com/vishvananda/netlink v1.3.1
# Seen:    a route's locked metrics are one mask, a bit for each (RTAX_LOCK). The library
#          has two of them, Route.MTULock and Route.RtoMinLock, and reads each as true only
#          if its bit is the mask's only one: with both, or with any other lock beside it,
#          it is false. To write both it sends two masks, of which the kernel keeps the
#          second, so the MTU is not locked. Who copies a route by way of this library
#          copies such locks wrong, without an error.
#
#          as described: read, MTU locked: MTULock true, RtoMinLock false
#          as described: read, MTU and RTO locked: MTULock false, RtoMinLock false
#          as described: read, MTU and window locked: MTULock false, RtoMinLock false
#          as described: written with both locks: mtu 1400 rto_min lock 200ms
#          as described: the same route of iproute2: mtu lock 1400 rto_min lock 200ms
. "$(dirname "$0")/lib/common.sh"
need_root
need ip unshare

cat >main.go <<'END'
package main

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

func main() {
	lo, err := netlink.LinkByName("lo")
	check(err)
	for _, dst := range []string{"192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"} {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: network(dst)}, netlink.RT_FILTER_DST)
		check(err)
		if len(routes) != 1 {
			panic(fmt.Sprint(dst, ": ", routes))
		}
		fmt.Printf("MTULock %t, RtoMinLock %t\n", routes[0].MTULock, routes[0].RtoMinLock)
	}
	check(netlink.RouteAdd(&netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: network("192.0.2.4/32"), Scope: netlink.SCOPE_LINK,
		MTU: 1400, MTULock: true, RtoMin: 200, RtoMinLock: true,
	}))
}

func network(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	check(err)
	return n
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build github.com/vishvananda/netlink@v1.3.1

# In a network namespace of its own. iproute2 reads what the library wrote.
cat >routes.sh <<'END'
set -e
ip link set lo up
ip route add 192.0.2.1/32 dev lo mtu lock 1400
ip route add 192.0.2.2/32 dev lo mtu lock 1400 rto_min 200ms
ip route add 192.0.2.3/32 dev lo mtu lock 1400 window lock 65535
./program
ip route show 192.0.2.4/32 | grep -o 'mtu.*[^ ]'
# The same by iproute2 alone.
ip route show 192.0.2.2/32 | grep -o 'mtu.*[^ ]'
END
timeout --foreground 30 unshare --net bash routes.sh >seen 2>log || { tail -n 5 log >&2; untried "the program failed"; }
expect "read, MTU locked" "MTULock true, RtoMinLock false" "$(sed -n 1p seen)"
expect "read, MTU and RTO locked" "MTULock false, RtoMinLock false" "$(sed -n 2p seen)"
expect "read, MTU and window locked" "MTULock false, RtoMinLock false" "$(sed -n 3p seen)"
expect "written with both locks" "mtu 1400 rto_min lock 200ms" "$(sed -n 4p seen)"
expect "the same route of iproute2" "mtu lock 1400 rto_min lock 200ms" "$(sed -n 5p seen)"
