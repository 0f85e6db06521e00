# prints: 5
# prints: 9
# prints: 1
ip link add d0 type dummy
ip link add vxlan0 type vxlan id 5 dev d0 dstport 4789
ip link add link d0 name d0.9 type vlan id 9
ip link add link d0 name m0 type macvlan mode bridge
ip link add b0 type bridge vlan_filtering 1
ip link set vxlan0 master b0
bridge vlan add dev vxlan0 vid 7
ip -d link show vxlan0 | sed -n 's/.*vxlan id \([0-9]*\).*/\1/p'
ip -d link show d0.9 | sed -n 's/.*vlan protocol 802.1Q id \([0-9]*\).*/\1/p'
ip -d link show b0 | sed -n 's/.*vlan_filtering \([0-9]*\).*/\1/p'
for link in b0 m0 d0.9 vxlan0 d0; do ip link del $link; done
