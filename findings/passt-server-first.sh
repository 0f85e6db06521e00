#!/bin/bash
# A server that speaks first stays silent behind passt until its client has spoken.
#
# Tool:  passt (and pasta, the same program) 0.0~git20230309.7c7625d-1 of Debian 12
# Seen:  a client connects to a forwarded port from outside. The connection is
#        established for it at once, but the server's accept returns only when the
#        client's first byte arrives. A greeting (SMTP, SSH, MySQL) therefore never
#        comes, if the client waits for it before it says anything.
#
#        as described: greeting without passt: 220 hello
#        as described: greeting through passt, client silent for 3 s: none
#        as described: greeting through passt, after the client's first byte: 220 hello
#
# Everything happens in a network namespace of the script's own. Needs no root where
# users may make user namespaces.
. "$(dirname "$0")/lib/common.sh"
need unshare ip
debian passt=0.0~git20230309.7c7625d-1 busybox-static=1:1.35.0-4+deb12u1+b1

cat >inside <<'END'
exec 2>log
ip link set lo up
ip link add outer type veth peer name peer
ip address add 192.0.2.1/24 dev outer
ip link set outer up
ip link set peer up
ip route add default via 192.0.2.2 # pasta copies the interface with the default route
serve() { exec busybox nc -ll -p "$1" -e /bin/sh -c 'echo 220 hello; sleep 5'; }

# greeting PORT FIRST: what the server says first to a client that says FIRST
greeting() {
	exec 3<>"/dev/tcp/192.0.2.1/$1" || return
	printf %s "$2" >&3
	line=none
	read -r -t 3 -u 3 line || true
	exec 3>&-
	echo "${line:-none}"
}

serve 2500 & direct=$!
pasta --config-net -f -t 2525 -- busybox nc -ll -p 2525 -e /bin/sh -c 'echo 220 hello; sleep 5' & pasta=$!
sleep 2 # until both listen; pasta's port accepts before its server does
greeting 2500 '' >direct
greeting 2525 '' >silent
greeting 2525 x >spoken
kill $direct $pasta
END
unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc bash inside || true
[ -s spoken ] || { cat log >&2; untried "nothing was measured"; }
expect "greeting without passt" "220 hello" "$(cat direct)"
expect "greeting through passt, client silent for 3 s" none "$(cat silent)"
expect "greeting through passt, after the client's first byte" "220 hello" "$(cat spoken)"
