//go:build vm && full

package programs

// program is run by a shell in a privileged container, with directories of its own in
// memory at /tmp, /run, /var/lib and /var/log, one of the host's at /volume, and a root
// file system that is read-only.
type program struct {
	name string
	// script fails where something does not work, and says by what it prints what did.
	script string
	// want is its standard output, or the end of it.
	want string
	// modules says that the kernel needs them.
	modules bool
}

func list() []program {
	return []program{
		{name: "overlayfs over a loop device", want: "low\nup\n", script: `
cd $(mktemp -d)
truncate -s 32M disk
mkfs.ext4 -q disk
mkdir m
mount -o loop disk m
mkdir m/low m/up m/work m/merged
echo low >m/low/file
mount -t overlay overlay -o lowerdir=m/low,upperdir=m/up,workdir=m/work m/merged
echo up >m/merged/file
cat m/low/file m/up/file
umount m/merged m
`},
		{name: "links", want: "5\n9\n1\n", script: `
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
`},
		{name: "links by modules", modules: true, want: "done\n", script: `
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
`},
		{name: "ipvs", modules: true, want: "10.9.9.9:80 rr\n", script: `
ipvsadm -A -t 10.9.9.9:80 -s rr
ipvsadm -a -t 10.9.9.9:80 -r 10.0.0.2:8080 -m
ipvsadm -Ln | sed -n 's/^TCP *//p' | sed 's/ *$//'
ipvsadm -C
`},
		{name: "WireGuard", want: "3 received\n", script: `
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
`},
		{name: "OpenVPN by a tun device", want: "1 received\n", script: `
openvpn --genkey secret /tmp/vpn.key
for n in x y; do ip netns add $n; done
ip link add vx netns x type veth peer name vy netns y
for n in x y; do
	case $n in x) me=1 other=2;; y) me=2 other=1;; esac
	ip -n $n addr add 10.3.0.$me/24 dev v$n
	ip -n $n link set v$n up
	ip netns exec $n openvpn --dev tun --remote 10.3.0.$other --ifconfig 10.4.0.$me 10.4.0.$other --secret /tmp/vpn.key --cipher AES-256-CBC \
		--daemon --writepid /tmp/vpn.$n --log /tmp/vpn.$n.log
done
up=no
for try in $(seq 60); do if ip netns exec x ping -q -c 1 -W 1 10.4.0.2 >/tmp/vpn.ping; then up=yes; break; fi; done
[ $up = yes ] || cat /tmp/vpn.x.log >&2
sed -n 's/.*, \(1 received\).*/\1/p' /tmp/vpn.ping
kill $(cat /tmp/vpn.x /tmp/vpn.y)
`},
		{name: "rules of a service mesh", want: "done\n", script: `
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
`},
		{name: "sets of a firewall", want: "done\n", script: `
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
`},
		{name: "fio", want: "io_uring 0\nlibaio 0\nio_uring 0\nlibaio 0\n", script: `
for dir in /tmp /volume; do
	for engine in io_uring libaio; do
		direct=1
		[ $dir = /volume ] || direct=0 # a tmpfs has none
		fio --name=test --ioengine=$engine --rw=randrw --bs=4k --size=4M --direct=$direct --iodepth=8 --verify=crc32c --directory=$dir --output=/tmp/fio.log \
			--minimal || { cat /tmp/fio.log >&2; exit 1; }
		echo $engine $(cut -d';' -f5 /tmp/fio.log)
	done
done
`},
		{name: "Redis without a warning", want: "PONG\nOK\nvalue\n", script: `
redis-server --save '' --dir /tmp --logfile /tmp/redis.log --daemonize yes
redis() { redis-cli "$@"; }
for try in $(seq 100); do if redis ping >/dev/null 2>&1; then break; fi; sleep 0.2; done
redis ping
redis set key value
redis get key
redis shutdown nosave || true
! grep -i warning /tmp/redis.log >&2
`},
		{name: "PostgreSQL", want: "5050\n", script: `
install -d -o postgres /tmp/pg
bin=/usr/lib/postgresql/15/bin
as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
as $bin/initdb -D /tmp/pg/data >/tmp/initdb.log 2>&1 || { cat /tmp/initdb.log >&2; exit 1; }
as $bin/pg_ctl -D /tmp/pg/data -o "-k /tmp/pg" -t 600 -w -l /tmp/pg/log start >/dev/null || { cat /tmp/pg/log >&2; exit 1; }
as psql -h /tmp/pg -d postgres -At -c 'create table t as select generate_series(1, 100) i' -c 'select sum(i) from t' | tail -n 1
as $bin/pg_ctl -D /tmp/pg/data -w -m immediate stop >/dev/null
`},
		{name: "a JVM", want: "openjdk version \n", script: `
java -XX:+UseZGC -XX:+UseTransparentHugePages -Xmx128m -version >/tmp/java.log 2>&1 || { cat /tmp/java.log >&2; exit 1; }
JAVA_TOOL_OPTIONS="-XX:+UseG1GC -XX:TieredStopAtLevel=1 -Xmx128m" keytool -genkeypair -alias test -keyalg EC -dname CN=test -keystore /tmp/store \
	-storepass changeit >/tmp/java.log 2>&1 || { cat /tmp/java.log >&2; exit 1; }
java -version 2>&1 | head -n 1 | cut -d'"' -f1
`},
		{name: "Docker with overlay2 on a bridge", want: "overlay2\nnested\n0% packet loss\n", script: `
mount -t tmpfs tmpfs /etc/docker
mkdir -p /sys/fs/cgroup/init # as Docker's own image with Docker does
for process in $(cat /sys/fs/cgroup/cgroup.procs); do echo $process >/sys/fs/cgroup/init/cgroup.procs 2>/dev/null || true; done
sed 's/ / +/g; s/^/+/' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
dockerd >/tmp/docker.log 2>&1 &
daemon=$!
trap '[ $? = 0 ] || tail -n 30 /tmp/docker.log >&2' EXIT
up=no
for try in $(seq 600); do if docker info >/dev/null 2>&1; then up=yes; break; fi; kill -0 $daemon; sleep 0.5; done
[ $up = yes ]
docker info --format '{{.Driver}}'
mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin/ && ln -sf busybox /tmp/image/bin/sh
tar -C /tmp/image -c . | docker import - box >/dev/null
docker run --rm --memory 32m box /bin/busybox sh -c '/bin/busybox echo nested'
docker run -d --name server -p 8080:80 box /bin/busybox sleep 1000 >/dev/null
address=$(docker inspect --format '{{.NetworkSettings.IPAddress}}' server)
docker run --rm box /bin/busybox ping -q -c 2 $address | grep -o '0% packet loss'
docker rm -f server >/dev/null
kill $daemon
wait $daemon
`},
		{name: "NFS", modules: true, want: "shared\n", script: `
mkdir -p /tmp/export /tmp/mnt /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mount -t tmpfs tmpfs /tmp/export
echo shared >/tmp/export/file
mount -t nfsd nfsd /proc/fs/nfsd
exportfs -o rw,no_root_squash,fsid=0,insecure '*:/tmp/export'
rpc.mountd --no-nfs-version 3
rpc.nfsd --no-nfs-version 3 1
mount -t nfs4 -o port=2049 127.0.0.1:/ /tmp/mnt
cat /tmp/mnt/file
umount /tmp/mnt
rpc.nfsd 0
`},
	}
}
