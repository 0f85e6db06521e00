#!/bin/bash
# Under "ip netns exec" there are no control groups.
#
# Tool:  iproute2 6.1.0-3 of Debian 12
# Seen:  ip netns exec mounts a new sysfs over /sys, so that /sys/class/net shows the
#        namespace's interfaces, and with it hides everything that is mounted below the
#        old one: /sys/fs/cgroup, debugfs, bpf. A container runtime that is tried in a
#        namespace this way fails because it finds no cgroup mounts. nsenter --net
#        changes the network namespace alone.
#
#        as described: cgroup mounts in the namespace with nsenter: as outside
#        as described: cgroup mounts in the namespace with ip netns exec: 0
. "$(dirname "$0")/lib/common.sh"
need_root
need unshare nsenter
[ "$(ls /sys/fs/cgroup)" ] || untried "no control groups here"
debian iproute2=6.1.0-3

cat >inside <<'END'
mount -t tmpfs tmpfs /run # for /run/netns
ip netns add finding
ls /sys/fs/cgroup | wc -l
nsenter --net=/run/netns/finding ls /sys/fs/cgroup | wc -l
ip netns exec finding ls /sys/fs/cgroup | wc -l
END
unshare --mount bash inside >seen
outside=$(sed -n 1p seen)
[ "$(sed -n 2p seen)" = "$outside" ] || untried "nsenter saw something else than there is outside"
expect "cgroup mounts in the namespace with nsenter" "as outside" "as outside"
expect "cgroup mounts in the namespace with ip netns exec" 0 "$(sed -n 3p seen)"
