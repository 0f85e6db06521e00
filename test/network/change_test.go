//go:build vm

package network

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestChanges begins with a namespace that is empty at create, as docker 26
// does, and changes it at each time at which a caller may.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	ns := w.namespace("pod")
	if !w.kata() {
		t.Skip("of this runtime alone: for others the namespace is the pod's own")
	}
	replace := strings.NewReplacer("POD", ns).Replace
	inside := w.inside("the namespace", ns)
	p := w.create("the pod", ns)

	// Between create and start: the interface is there when the program runs.
	w.removeLink("far0")
	w.ip("", replace(`
link add far0 type veth peer name eth0 netns POD
link set far0 up
address add 10.30.0.1/24 dev far0
address add fd30::1/64 nodad dev far0
`))
	w.ip(ns, `
link set eth0 up
address add 10.30.0.2/24 brd + dev eth0
address add fd30::2/64 nodad dev eth0
route add default via 10.30.0.1
`)
	p.start()
	p.get("follow", "link eth0 mac", "address eth0 10.30.0.2/24", "address eth0 fd30::2/64", "route table 254 family 2 0.0.0.0/0")
	host := w.inside("the host", "")
	host.try(t, "", "reach", at("10.30.0.2"), "1500")
	host.try(t, "", "reach", at("fd30::2"), "1500")

	t.Run("address and route", func(t *testing.T) {
		w.ip(ns, "address add 10.30.0.3/24 dev eth0\nroute add 10.31.0.0/16 via 10.30.0.1\n")
		p.get("follow", "address eth0 10.30.0.3/24", "route table 254 family 2 10.31.0.0/16")
		host.try(t, "answered\n", "ping", "10.30.0.3", "1500")
		w.ip(ns, "address delete 10.30.0.3/24 dev eth0\nroute delete 10.31.0.0/16\n")
		p.get("follow", "!address eth0 10.30.0.3/24", "!route table 254 family 2 10.31.0.0/16")
	})
	t.Run("MTU", func(t *testing.T) {
		w.ip(ns, "link set eth0 mtu 1300\n")
		w.ip("", "link set far0 mtu 1300\n")
		p.get("follow", "link eth0 mac "+mac(inside, "eth0")+" mtu 1300")
		host.try(t, "", "reach", at("10.30.0.2"), "1300")
	})
	t.Run("interfaces", func(t *testing.T) {
		for range 2 { // the second time on a NIC that is plugged in anew
			w.ip("", replace(`
link add far1 type veth peer name eth1 netns POD
link set far1 up
address add 10.32.0.1/24 dev far1
`))
			w.ip(ns, "link set eth1 up\naddress add 10.32.0.2/24 dev eth1\n")
			p.get("follow", "link eth1 mac "+mac(inside, "eth1"), "address eth1 10.32.0.2/24")
			host.try(t, "", "reach", at("10.32.0.2"), "1500")
			w.ip("", "link delete far1\n")
			p.get("follow", "!link eth1")
			host.try(t, "", "reach", at("10.30.0.2"), "1300")
		}
	})
	t.Run("another name", func(t *testing.T) {
		w.ip(ns, "link set eth0 down\nlink set eth0 name net0\nlink set net0 up\nroute add default via 10.30.0.1\n")
		p.get("follow", "link net0 mac", "!link eth0", "address net0 10.30.0.2/24", "route table 254 family 2 0.0.0.0/0")
		host.try(t, "", "reach", at("10.30.0.2"), "1300")
	})
	tap := regexp.MustCompile(`(?m)^link kata.*\n`) // goes with the pod
	before := tap.ReplaceAllString(inside.get("view"), "")
	p.remove()
	if diff := cmp.Diff(before, inside.get("view")); diff != "" {
		t.Errorf("the namespace was (-) and is after delete (+):\n%s", diff)
	}
}

// mac is the address of an interface.
func mac(p place, name string) string {
	for line := range strings.Lines(p.get("view")) {
		if rest, found := strings.CutPrefix(line, "link "+name+" mac "); found {
			return strings.Fields(rest)[0]
		}
	}
	return "of no interface " + name
}

// TestFailures has namespaces in which something is wrong. The error names it,
// and the namespace is as it was.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	if !w.kata() {
		t.Skip("of this runtime alone")
	}
	refused := func(t *testing.T, ns string, want ...string) {
		t.Helper()
		result := w.h.Run("run", "--bundle", w.bundle(w.spec(ns)), w.h.ID())
		for _, text := range want {
			if result.Code == 0 || !strings.Contains(result.Stderr, text) {
				t.Errorf("exit code %d, want an error with %q: %s", result.Code, text, result.Stderr)
			}
		}
	}
	t.Run("no such namespace", func(t *testing.T) {
		refused(t, "/run/netns/none", "network namespace", "/run/netns/none", "no such file")
	})
	t.Run("no namespace", func(t *testing.T) {
		refused(t, "/dev/null", "/dev/null is not a network namespace")
	})
	ns := w.namespace("pod")
	w.ip(ns, "link add eth0 type veth peer name far0\nlink set eth0 up\nlink set far0 up\naddress add 10.40.0.2/24 dev eth0\n")
	w.must("", enter(ns, "ip", "tuntap", "add", "dev", "tun7", "mode", "tun")...)
	inside := w.inside("the namespace", ns)
	inside.get("follow", "address eth0 fe80::", "address far0 fe80::")
	t.Run("an interface without frames", func(t *testing.T) {
		w.ip(ns, "link set tun7 up\n")
		before := inside.get("dump")
		refused(t, ns, "connect network", "interface tun7", "cannot be connected")
		if diff := cmp.Diff(before, inside.get("dump")); diff != "" {
			t.Errorf("the namespace was (-) and is (+):\n%s", diff)
		}
		w.ip(ns, "link delete tun7\n")
	})
	before := inside.get("dump")
	t.Run("what the guest cannot have", func(t *testing.T) {
		// The guest's kernel takes no more than this, the host's does.
		w.ip(ns, "link add big0 mtu 65535 type veth peer name big1\n")
		defer w.ip(ns, "link delete big0\n")
		with := inside.get("dump")
		w.ip(ns, "link set big0 mtu 65535\n")
		result := w.h.Run("run", "--bundle", w.bundle(w.spec(ns)), w.h.ID())
		if result.Code == 0 || !strings.Contains(result.Stderr, "connect network") || !strings.Contains(result.Stderr, "interface big0") {
			t.Errorf("exit code %d: %s", result.Code, result.Stderr)
		}
		if diff := cmp.Diff(with, inside.get("dump")); diff != "" {
			t.Errorf("the namespace was (-) and is (+):\n%s", diff)
		}
	})
	t.Run("two machines in one namespace", func(t *testing.T) {
		p := w.pod("the pod", ns)
		during := inside.get("view")
		refused(t, ns, "connect interface far0 (veth)", "connected to a virtual machine already")
		if diff := cmp.Diff(during, inside.get("view")); diff != "" {
			t.Errorf("the namespace was (-) and is (+):\n%s", diff)
		}
		p.remove()
	})
	t.Run("a namespace that vanishes", func(t *testing.T) {
		// Its name goes, and its interfaces' other ends; the pod lives on.
		gone := w.namespace("gone")
		w.ip(gone, "link add eth0 type veth peer name far0\nlink set eth0 up\naddress add 10.41.0.2/24 dev eth0\n")
		p := w.create("the pod", gone)
		w.ip(gone, "link delete eth0\n")
		if err := unix.Unmount(gone, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		p.start()
		p.get("follow", "!link eth0", "link lo")
		p.remove()
	})
	if diff := cmp.Diff(before, inside.get("dump")); diff != "" {
		t.Errorf("the namespace was (-) and is (+):\n%s", diff)
	}
}
