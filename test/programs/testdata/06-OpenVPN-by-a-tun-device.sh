# prints: 1 received
openvpn --genkey secret /tmp/vpn.key
for n in x y; do ip netns add $n; done
ip link add vx netns x type veth peer name vy netns y
for n in x y; do
	case $n in x) me=1 other=2;; y) me=2 other=1;; esac
	ip -n $n addr add 10.3.0.$me/24 dev v$n
	ip -n $n link set v$n up
	ip netns exec $n openvpn --dev tun --remote 10.3.0.$other --ifconfig 10.4.0.$me 10.4.0.$other --secret /tmp/vpn.key --cipher AES-256-CBC \
		--daemon --writepid /tmp/vpn.$n --log /tmp/vpn.$n.log >/tmp/vpn.out
done
up=no
for try in $(seq 60); do if ip netns exec x ping -q -c 1 -W 1 10.4.0.2 >/tmp/vpn.ping; then up=yes; break; fi; done
[ $up = yes ] || cat /tmp/vpn.x.log >&2
sed -n 's/.*, \(1 received\).*/\1/p' /tmp/vpn.ping
kill $(cat /tmp/vpn.x /tmp/vpn.y)
