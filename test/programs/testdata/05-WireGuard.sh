# prints: 3 received
umask 077
for n in a b; do ip netns add $n; wg genkey >/tmp/$n.key; wg pubkey </tmp/$n.key >/tmp/$n.pub; done
ip link add va netns a type veth peer name vb netns b
for n in a b; do
	case $n in a) peer=b me=1 other=2;; b) peer=a me=2 other=1;; esac
	ip -n $n addr add 10.1.0.$me/24 dev v$n
	ip -n $n link set v$n up
	ip -n $n link add wg0 type wireguard
	ip netns exec $n wg set wg0 private-key /tmp/$n.key listen-port 51820 peer $(cat /tmp/$peer.pub) allowed-ips 10.2.0.0/24 endpoint 10.1.0.$other:51820
	ip -n $n addr add 10.2.0.$me/24 dev wg0
	ip -n $n link set wg0 up
done
ip netns exec a ping -q -c 3 -i 0.2 -W 20 10.2.0.2 | sed -n 's/.*, \(3 received\).*/\1/p'
ip netns del a
ip netns del b
