# prints: done
# needs modules
ip link add d1 type dummy
ip link add link d1 name i1 type ipvlan
ip link add g1 type geneve id 5 remote 10.1.1.1
ip link add gre9 type gre local 10.1.1.2 remote 10.1.1.1
ip link add bond9 type bond
ip link add ifb9 type ifb
ip link add vrf9 type vrf table 10
tc qdisc add dev d1 root netem delay 1ms
tc qdisc add dev d1 clsact
tc filter add dev d1 egress bpf bytecode '1,6 0 0 4294967295' classid 1:1
for link in vrf9 ifb9 bond9 gre9 g1 i1 d1; do ip link del $link; done
echo done
