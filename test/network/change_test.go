//go:build vm

package network

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestChangesAtRunTime changes the namespace of a running pod and waits until
// the pod has followed. Each step undoes itself, so that the namespace at the
// end has to be the one of the beginning.
func TestChangesAtRunTime(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	ns, far := w.namespace("pod"), w.namespace("far")
	w.ip(ns, "link add eth0 type veth peer name far0 netns "+far+"\nlink set eth0 up\naddress add 10.10.0.2/24 dev eth0")
	w.ip(far, "link set far0 up\naddress add 10.10.0.1/24 dev far0\naddress add 10.20.0.1/24 dev far0")
	inside, outside := w.inside("the namespace", ns), w.inside("the far end", far)
	inside.get("follow", "address eth0 fe80::", "route table 254 family 10 fe80::/64 type 1 scope 0 protocol 2 metric 256 dev eth0")
	before := inside.get("dump")

	p := w.create("the pod", ns)
	// Between create and start, as docker 26 does: on top of what was there.
	const late = "address late0 10.30.0.2/24"
	w.ip(ns, "link add late0 address 02:00:00:00:30:02 type veth peer name far3 netns "+far+"\nlink set late0 up\naddress add 10.30.0.2/24 dev late0")
	w.ip(far, "link set far3 up\naddress add 10.30.0.1/24 dev far3")
	p.start()
	t.Run("between create and start", func(t *testing.T) {
		p.try(t, "seen\n", "follow", late, "link late0 mac 02:00:00:00:30:02 mtu 1500 up")
		outside.try(t, "answered\n", "ping", "10.30.0.2", "1500")
	})
	steps := []struct {
		name, do, undo string
		see            []string
		reach          string // from the far end, meanwhile
	}{
		{
			"address", "address add 10.20.0.2/24 dev eth0", "address delete 10.20.0.2/24 dev eth0",
			[]string{"address eth0 10.20.0.2/24", "route table 254 family 2 10.20.0.0/24"}, "10.20.0.2",
		},
		{
			"IPv6 address", "address add 2001:db8::2/64 nodad dev eth0", "address delete 2001:db8::2/64 dev eth0",
			[]string{"address eth0 2001:db8::2/64"}, "",
		},
		{
			"routes", "route add 10.40.0.0/16 via 10.10.0.1\nroute add blackhole 10.41.0.0/16", "route delete 10.40.0.0/16\nroute delete blackhole 10.41.0.0/16",
			[]string{"route table 254 family 2 10.40.0.0/16 type 1 ", "route table 254 family 2 10.41.0.0/16 type 6 "}, "10.10.0.2",
		},
		{
			"neighbour", "neighbour add 10.10.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent", "neighbour delete 10.10.0.77 dev eth0",
			[]string{"neighbour eth0 10.10.0.77 mac 02:00:00:00:00:77"}, "",
		},
		{"MTU", "link set eth0 mtu 1400", "link set eth0 mtu 1500", []string{"MTULINE"}, "10.10.0.2"},
		{
			"interface",
			"link add new0 address 02:00:00:00:50:02 mtu 1300 type veth peer name far5 netns FAR\nlink set new0 up\naddress add 10.50.0.2/24 dev new0\nroute add 10.51.0.0/16 via 10.50.0.1",
			"link delete new0",
			[]string{"link new0 mac 02:00:00:00:50:02 mtu 1300 up", "address new0 10.50.0.2/24", "route table 254 family 2 10.51.0.0/16"}, "",
		},
		{"the late interface's end", "link delete late0", "", []string{"!link late0", "!" + late}, "10.10.0.2"},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			w := w.in(t)
			w.ip(ns, strings.ReplaceAll(step.do, "FAR", far))
			p.try(t, "seen\n", append([]string{"follow"}, step.see...)...)
			if step.reach != "" {
				outside.try(t, "answered\n", "ping", step.reach, "1000")
			}
			if step.undo == "" {
				return
			}
			w.ip(ns, step.undo)
			var gone []string
			for _, line := range step.see {
				gone = append(gone, "!"+line)
			}
			p.try(t, "seen\n", append([]string{"follow"}, gone...)...)
		})
	}
	p.remove()
	if diff := cmp.Diff(before, inside.get("dump")); diff != "" {
		t.Errorf("the namespace was (-) and is after delete (+):\n%s", diff)
	}
}

// TestFailures has namespaces that no pod can be on: the error says which
// interface or namespace, and nothing of the namespace has changed.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	t.Run("no namespace", func(t *testing.T) {
		path := filepath.Join(w.h.Temp, "absent")
		w.in(t).refused(path, path)
	})
	t.Run("another kind of namespace", func(t *testing.T) {
		w.in(t).refused("/proc/self/ns/uts", "/proc/self/ns/uts")
	})
	t.Run("no namespace but a file", func(t *testing.T) {
		path := w.h.File("file")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.in(t).refused(path, path)
	})
	if !w.kata() {
		return // other runtimes have no interface that they cannot connect
	}
	t.Run("layer 3 interface", func(t *testing.T) {
		ns := w.namespace("tun")
		w.ip(ns, "tuntap add dev tun7 mode tun\nlink set tun7 addrgenmode none up\naddress add 10.9.0.2/24 dev tun7\n"+
			"link add eth0 type veth peer name eth1\nlink set eth0 addrgenmode none up\nlink set eth1 addrgenmode none up\naddress add 10.8.0.2/24 dev eth0")
		before := w.inside("the namespace", ns).get("dump")
		w.in(t).refused(ns, "interface tun7")
		if diff := cmp.Diff(before, w.inside("the namespace", ns).get("dump")); diff != "" {
			t.Errorf("the namespace was (-) and is (+):\n%s", diff)
		}
	})
	t.Run("interface that goes before start", func(t *testing.T) {
		ns := w.namespace("going")
		w.ip(ns, "link add eth0 type veth peer name eth1\nlink set eth0 addrgenmode none up\naddress add 10.8.0.2/24 dev eth0")
		p := w.create("the pod", ns)
		w.ip(ns, "link delete eth0")
		p.start()
		p.try(t, "seen\n", "follow", "!link eth0")
		p.remove()
	})
	t.Run("namespace that goes before start", func(t *testing.T) {
		ns := w.namespace("gone")
		p := w.create("the pod", ns)
		// The pod's processes hold what the path no longer names.
		if err := unix.Unmount(ns, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(ns); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		p.start()
		p.remove()
	})
}

// refused wants create to fail, with that text in the error, and to leave
// nothing.
func (w *world) refused(ns, text string) {
	w.t.Helper()
	result := w.h.Run("create", "--bundle", w.bundle(w.spec(ns)), w.h.ID())
	if result.Code == 0 || !strings.Contains(result.Stderr, text) {
		w.t.Errorf("exit code %d, %q does not say %q", result.Code, result.Stderr, text)
	}
	if left := w.h.Processes(); w.kata() && len(left) > 0 {
		for _, process := range left {
			w.h.WaitExit(process.PID)
		}
	}
}
