//go:build vm

package vm

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// crioPod makes a specification that of a pod's container as CRI-O writes it
// for hostNetwork and hostIPC: the host's namespaces by the path of a process
// that is in them.
func crioPod(spec *specs.Spec, kind, pod string, pid int) *specs.Spec {
	spec.Annotations = map[string]string{
		"io.kubernetes.cri-o.ContainerType": kind, "io.kubernetes.cri-o.HostNetwork": "true",
	}
	if pod != "" {
		spec.Annotations["io.kubernetes.cri-o.SandboxID"] = pod
	}
	spec.Hostname = ""
	for kind, name := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
	} {
		bundle.Namespace(spec, kind).Path = fmt.Sprintf("/proc/%d/ns/%s", pid, name)
	}
	return spec
}

// The host's network, named by a path, is passt's where that is configured, and
// never attached to: neither the traffic of its interfaces nor its localhost
// reaches the guest.
func TestHostNamespacesByPath(t *testing.T) {
	h := harness.New(t)
	configure(h, `runtime.host_network = "passt"`)
	newPodNetwork(h, "world0") // its interface has 10.80.0.2, ours 10.80.0.1
	hosts, err := netlink.LinkByName("host-world0")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{Gw: net.ParseIP("10.80.0.2"), Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.RouteDel(route) }) // it goes with its interface too
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "host")
	}))
	defer server.Close()

	pod := detach(h, crioPod(bundle.Spec("/bin/sh", "-c", waitForTerm), "sandbox", "", os.Getpid()))
	spec := crioPod(bundle.Spec("/bin/sh", "-c", "ip -o -4 addr show scope global | tr -s ' '; hostname"), "container", pod.id, pod.pid)
	spec.Linux.Namespaces = without(spec.Linux.Namespaces, specs.CgroupNamespace)
	result := h.Run("run", "-b", h.Bundle(spec), h.ID())
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if result.Code != 0 || !strings.Contains(result.Stdout, "inet 10.80.0.1/24 ") || !strings.HasSuffix(result.Stdout, "\n"+name+"\n") {
		t.Errorf("a container of the pod: %+v", result)
	}
	// What runs on the host is asked, not the guest, and nothing hangs on the interface.
	response, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	qdiscs, err := netlink.QdiscList(hosts)
	if err != nil {
		t.Fatal(err)
	}
	for _, qdisc := range qdiscs {
		if kind := qdisc.Type(); kind == "ingress" || kind == "clsact" {
			t.Errorf("the host's interface has a %s queueing discipline", kind)
		}
	}
	own := crioPod(bundle.Spec("/bin/true"), "container", pod.id, pod.pid)
	bundle.Namespace(own, specs.NetworkNamespace).Path = ""
	if result := h.Run("run", "-b", h.Bundle(own), h.ID()); result.Code == 0 || !strings.Contains(result.Stderr, "a new network namespace in a pod") {
		t.Errorf("a container with another network: %+v", result)
	}
	h.Must("delete", "--force", pod.id)
}

// A container whose pod has a network of its own cannot have the host's.
func TestHostNetworkInAPod(t *testing.T) {
	h := harness.New(t)
	configure(h, `runtime.host_network = "passt"`)
	pod := detach(h, sandbox(bundle.Spec("/bin/sh", "-c", waitForTerm)))
	spec := member(bundle.Spec("/bin/true"), pod, specs.IPCNamespace, specs.UTSNamespace)
	bundle.Namespace(spec, specs.NetworkNamespace).Path = "/proc/self/ns/net"
	result := h.Run("run", "-b", h.Bundle(spec), h.ID())
	if result.Code == 0 || !strings.Contains(result.Stderr, "its pod "+pod.id+" has a network of its own") {
		t.Errorf("%+v", result)
	}
	h.Must("delete", "--force", pod.id)
}
