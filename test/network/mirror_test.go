//go:build vm

package network

import (
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/test/network/internal/attributes"
)

// What the namespace of a pod may hold, in lines of ip(8). FAR is another
// namespace, where the other ends of veth pairs are.
const mirrored = `
link add eth0 address 02:00:00:00:00:10 type veth peer name far0 netns FAR
link set eth0 up
address add 10.10.0.2/24 brd + dev eth0
address add 10.10.0.3/24 dev eth0
address add 172.16.5.5/32 label eth0:x dev eth0
address add 2001:db8:10::2/64 nodad dev eth0
address add 2001:db8:10::3/64 nodad dev eth0
address add 2001:db8:10::4/64 nodad dev eth0 preferred_lft 0
address add 2001:db8:10::5/64 nodad dev eth0 valid_lft 3000 preferred_lft 2000
address add 2001:db8:10::6/64 nodad home dev eth0
address add 10.10.0.4/24 dev eth0 preferred_lft 0
address add 10.10.0.5/24 dev eth0 valid_lft 3000 preferred_lft 2000
address add 10.17.0.2/24 metric 77 dev eth0
address add 2001:db8:17::2/64 nodad metric 78 dev eth0
address add 239.7.7.7/32 autojoin dev eth0
route add default via 10.10.0.1 dev eth0
route add default via 2001:db8:10::1 dev eth0
link add eth1 address 02:00:00:00:00:11 mtu 9000 type veth peer name far1 netns FAR mtu 9000
link set eth1 up
address add 10.11.0.2/24 noprefixroute dev eth1
route add 10.11.0.0/24 dev eth1 metric 50
route add 169.254.1.1 dev eth1 scope link
route add 10.50.0.0/16 via 169.254.1.1 dev eth1
route add 10.51.0.0/16 via 192.168.77.1 dev eth1 onlink
route add 10.70.0.0/16 nexthop via 10.10.0.1 dev eth0 weight 1 nexthop via 10.11.0.1 dev eth1 weight 2
route add 10.71.0.0/16 via 10.10.0.1 src 10.10.0.3 mtu lock 1300
route add 10.72.0.0/16 via 10.10.0.1 dev eth0 rto_min 5ms
route add 10.73.0.0/16 via 10.10.0.1 dev eth0 mtu lock 1200 window 20000 rtt lock 300ms rttvar lock 100ms ssthresh lock 20 cwnd lock 50 advmss 1100 reordering 5 hoplimit 33 initcwnd 12 initrwnd 14 features ecn rto_min 6ms quickack 1 congctl cubic fastopen_no_cookie 1
route add 2001:db8:73::/48 via 2001:db8:10::1 dev eth0 pref high mtu 1290 advmss 1111 hoplimit 44
route add blackhole 10.66.0.0/16
route add unreachable 10.67.0.0/16
route add prohibit 10.68.0.0/16 table 100
route add blackhole 2001:db8:66::/48
route add 2001:db8:50::/48 via fe80::1 dev eth1
route add default via 10.11.0.1 dev eth1 table 100
rule add from 10.11.0.2 table 100 priority 1000
rule add fwmark 0x10/0xff table 101 priority 1001
neighbour add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth1 nud permanent
neighbour add 2001:db8:10::99 lladdr ee:ee:ee:ee:ee:01 dev eth0 nud permanent router
link add br0 address 02:00:00:00:00:14 type bridge
link add port0 address 02:00:00:00:00:15 type veth peer name far2 netns FAR
link set port0 master br0
link set port0 up
link set br0 up
address add 10.14.0.2/24 dev br0
link add down0 address 02:00:00:00:00:16 type veth peer name far3 netns FAR
address add 10.15.0.2/24 dev down0
link add eth0.100 address 02:00:00:00:00:17 mtu 1280 type veth peer name far4 netns FAR mtu 1280
link set eth0.100 up
address add 10.16.0.2 peer 10.16.0.1/32 dev eth0.100
link set mac0 address 02:00:00:00:00:12
link set mac0 name odd_name-15char
link set odd_name-15char up
address add 10.12.0.2/24 dev odd_name-15char
address add 10.99.0.1/32 dev lo
`

// The other ends, and the device below the macvlan one.
const (
	farBefore = `
link add under type veth peer name over
link set under up
link set over up
address add 10.12.0.1/24 dev over
link add mac0 link under type macvlan mode bridge
link set mac0 netns POD
`
	farAfter = `
link set far0 up
address add 10.10.0.1/24 dev far0
address add 2001:db8:10::1/64 nodad dev far0
link set far1 up
address add 10.11.0.1/24 dev far1
link set far2 up
address add 10.14.0.1/24 dev far2
link set far4 up
address add 10.16.0.1 peer 10.16.0.2/32 dev far4
route add 10.99.0.1 via 10.10.0.2
`
)

// mirroredNamespace makes a namespace with all of it.
func (w *world) mirroredNamespace() (ns string, far place) {
	w.t.Helper()
	ns, farNS := w.namespace("pod"), w.namespace("far")
	// The order in which links are deleted at the end does not matter.
	paths := strings.NewReplacer("FAR", farNS, "POD", ns)
	w.ip(farNS, paths.Replace(farBefore))
	w.ip(ns, paths.Replace(mirrored))
	// Not in a batch, which has one family.
	w.must("", enter(ns, "ip", "-6", "rule", "add", "from", "2001:db8:10::3", "table", "100", "priority", "1002")...)
	w.must("", enter(ns, "ip", "tuntap", "add", "dev", "tap0", "mode", "tap")...)
	// A persistent tap has a carrier, and so an address that the kernel makes,
	// only while somebody has it open.
	w.ip(ns, "link set tap0 addrgenmode none address 02:00:00:00:00:13\nlink set tap0 up\naddress add 10.13.0.2/24 dev tap0\n")
	w.ip(farNS, farAfter)
	far = w.inside("the far end", farNS)
	// The kernel makes link-local addresses a while after a link is up.
	wait := []string{"follow"}
	for _, name := range []string{"eth0", "eth1", "br0", "eth0.100", "odd_name-15char"} {
		wait = append(wait, "address "+name+" fe80::", "route table 254 family 10 fe80::/64 type 1 scope 0 protocol 2 metric 256 dev "+name)
	}
	w.inside("the namespace", ns).get(wait...)
	return ns, far
}

// TestMirror compares what a pod sees with what its namespace holds, and the
// namespace with itself afterwards, whatever ended the pod.
func TestMirror(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	ns, far := w.mirroredNamespace()
	inside := w.inside("the namespace", ns)
	before, view := inside.get("dump"), inside.get("view")

	for _, missing := range unused(view) {
		t.Errorf("nothing in the namespace has a route's %s", missing)
	}
	p := w.pod("the pod", ns)
	t.Run("view", func(t *testing.T) {
		// The guest's kernel takes its time too.
		lines := strings.Split(strings.TrimSpace(view), "\n")
		if _, err := p.run(append([]string{"follow"}, lines...)...); err != nil {
			t.Errorf("the pod lacks a line: %v", err)
		}
		if diff := cmp.Diff(view, p.get("view")); diff != "" {
			t.Errorf("the namespace (-) and the pod's (+) differ:\n%s", diff)
		}
	})
	t.Run("reach", func(t *testing.T) {
		for _, address := range []string{"10.10.0.2", "10.10.0.3", "2001:db8:10::2", "10.11.0.2", "10.12.0.2", "10.14.0.2", "10.16.0.2", "10.99.0.1"} {
			far.try(t, "answered\n", "ping", address, "1200")
		}
		far.try(t, "answered\n", "ping", "10.11.0.2", "9000")
		far.try(t, "answered\n", "ping", "10.10.0.2", "1500")
		for _, address := range []string{"10.10.0.1", "2001:db8:10::1", "10.11.0.1", "10.12.0.1", "10.14.0.1", "10.16.0.1"} {
			p.try(t, "answered\n", "ping", address, "1200")
		}
		far.try(t, "", "upload", "10.10.0.2:"+port, strconv.Itoa(mebibyte))
	})
	p.remove()
	if diff := cmp.Diff(before, inside.get("dump")); diff != "" {
		t.Errorf("the namespace was (-) and is after delete (+):\n%s", diff)
	}
	if !w.kata() {
		return
	}
	for _, victim := range []string{"kata-runtime supervisor", "qemu-system"} {
		t.Run("killed "+strings.Fields(victim)[len(strings.Fields(victim))-1], func(t *testing.T) {
			p := w.pod("the pod", ns)
			pid := p.hostPID()
			w.killProcess(victim)
			w.h.WaitExit(pid)
			p.remove()
			if diff := cmp.Diff(before, inside.get("dump")); diff != "" {
				t.Errorf("the namespace was (-) and is after delete (+):\n%s", diff)
			}
		})
	}
}

// unused are the attributes of a route that no line of a view has.
func unused(view string) []string {
	var names []string
	for name, class := range attributes.Classes()[reflect.TypeFor[netlink.Route]()] {
		if class == attributes.Compared && !strings.Contains(view, " "+name+"=") {
			names = append(names, name)
		}
	}
	return names
}

// hostPID is the pid that the caller was given.
func (p *pod) hostPID() int {
	p.w.t.Helper()
	text, err := os.ReadFile(p.pid)
	if err != nil {
		p.w.t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		p.w.t.Fatal(err)
	}
	return pid
}

// killProcess kills the test's only process whose command line has the text.
func (w *world) killProcess(text string) {
	w.t.Helper()
	killed := 0
	for _, process := range w.h.Processes() {
		if strings.Contains(process.Command, text) {
			if err := unix.Kill(process.PID, unix.SIGKILL); err != nil {
				w.t.Fatal(err)
			}
			killed++
		}
	}
	if killed != 1 {
		w.t.Fatalf("%d processes are %q", killed, text)
	}
}
