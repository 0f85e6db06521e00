# prints: done
ip netns add fire
run() { ip netns exec fire "$@"; }
run ipset create addresses hash:ip
run ipset create nets hash:net
run ipset create ports hash:ip,port
run ipset add addresses 10.0.0.1
run iptables-legacy -A INPUT -m set --match-set addresses src -j DROP
run iptables-nft -A INPUT -m set --match-set nets src -j DROP
run iptables-legacy -A INPUT -p tcp -m recent --name ssh --set -m hashlimit --hashlimit-upto 5/min --hashlimit-name h -j ACCEPT
run iptables-legacy -A INPUT -m pkttype --pkt-type broadcast -m iprange --src-range 10.0.0.1-10.0.0.9 -m mac --mac-source 02:00:00:00:00:01 -j DROP
run ip6tables-legacy -A INPUT -m rt --rt-type 0 -j DROP
run ip6tables-legacy -t raw -A PREROUTING -m rpfilter --invert -j DROP
ip netns del fire
echo done
