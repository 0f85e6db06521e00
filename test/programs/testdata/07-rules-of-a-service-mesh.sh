# prints: done
ip netns add mesh
for iptables in iptables-nft iptables-legacy; do
	run() { ip netns exec mesh "$iptables" "$@"; }
	run -t nat -N REDIRECT_IN
	run -t nat -A REDIRECT_IN -p tcp -j REDIRECT --to-ports 15006
	run -t nat -A PREROUTING -p tcp -j REDIRECT_IN
	run -t nat -A OUTPUT -o lo ! -d 127.0.0.1/32 -m owner --uid-owner 1337 -j REDIRECT_IN
	run -t nat -A OUTPUT -p udp --dport 53 -m owner ! --gid-owner 1337 -j REDIRECT --to-ports 15053
	run -t raw -A OUTPUT -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
	run -t raw -A PREROUTING -p udp --sport 53 -j CT --zone 1
	run -t mangle -A PREROUTING -p tcp -m socket -j MARK --set-mark 0x539
	run -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539/0xffffffff
	run -t mangle -A PREROUTING -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j CONNMARK --restore-mark
	run -A INPUT -m bpf --bytecode '4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0' -j ACCEPT || [ -z "$MODULES" ]
done
ip netns exec mesh nft -f - <<'RULES'
table inet proxy {
	map services { type ipv4_addr . inet_proto . inet_service : verdict; }
	set nodes { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }
	chain service { numgen random mod 2 vmap { 0 : goto one, 1 : goto two }; }
	chain one { meta l4proto tcp dnat ip to 10.0.0.1:8080; }
	chain two { jhash ip saddr mod 2 0 counter; quota over 1 mbytes drop; }
	chain dns { type filter hook prerouting priority raw; udp sport 53 ct zone set 1; }
	chain mesh { type filter hook prerouting priority mangle; meta l4proto tcp socket transparent 1 mark set 1 accept; ip protocol tcp tproxy ip to :15006 mark set 1 accept; }
	chain nat { type nat hook prerouting priority dstnat; ip daddr . meta l4proto . th dport vmap @services; fib daddr type local redirect; }
	chain post { type nat hook postrouting priority srcnat; ip saddr @nodes masquerade random; }
	chain filter { type filter hook forward priority filter; ct count over 9 reject; limit rate over 9/second log prefix "x" drop; }
}
RULES
ip netns exec mesh nft list table inet proxy >/dev/null
ip netns del mesh
echo done
