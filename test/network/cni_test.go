//go:build vm

package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	types "github.com/containernetworking/cni/pkg/types/100"

	"kata-runtime/test/harness"
)

// pluginDir is where Debian's package containernetworking-plugins puts them.
const pluginDir = "/usr/lib/cni"

type object = map[string]any

// network is a list of plugins, as in /etc/cni/net.d.
type network struct {
	w    *world
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
}

func (w *world) network(name string, plugins ...object) *network {
	w.t.Helper()
	for _, plugin := range plugins {
		kind, _ := plugin["type"].(string)
		if _, err := os.Stat(filepath.Join(pluginDir, kind)); err != nil {
			w.t.Fatalf("%v (make deps-test installs what the tests need)", err)
		}
	}
	text, err := json.Marshal(object{"cniVersion": "1.0.0", "name": name, "plugins": plugins})
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := libcni.ConfListFromBytes(text)
	if err != nil {
		w.t.Fatal(err)
	}
	w.atEnd(func() { _ = os.RemoveAll("/run/cni") }) // the plugin tuning leaves it
	return &network{w, list, libcni.NewCNIConfigWithCacheDir([]string{pluginDir}, w.h.File("cni-cache"), nil)}
}

// ipam gives addresses of these subnets, whose first one is the gateway's, and
// maybe default routes.
func (w *world) ipam(defaults bool, subnets ...string) object {
	var ranges, routes []any
	for _, subnet := range subnets {
		ranges = append(ranges, []any{object{"subnet": subnet}})
		everything := "0.0.0.0/0"
		if ip, _, err := net.ParseCIDR(subnet); err == nil && ip.To4() == nil {
			everything = "::/0"
		}
		if defaults {
			routes = append(routes, object{"dst": everything})
		}
	}
	return object{"type": "host-local", "dataDir": w.h.File("cni-addresses"), "ranges": ranges, "routes": routes}
}

// add connects a namespace, until the world's end, and returns the addresses
// and gateways.
func (n *network) add(ns, name string, capabilities object) (addresses, gateways []string) {
	n.w.t.Helper()
	conf := &libcni.RuntimeConf{ContainerID: filepath.Base(ns), NetNS: ns, IfName: name, CapabilityArgs: capabilities}
	ctx, cancel := context.WithTimeout(n.w.t.Context(), harness.Patience)
	defer cancel()
	n.w.atEnd(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(n.w.t.Context()), harness.Patience)
		defer cancel()
		if err := n.cni.DelNetworkList(ctx, n.list, conf); err != nil {
			n.w.t.Errorf("disconnect %s of %s: %v", name, ns, err)
		}
	})
	got, err := n.cni.AddNetworkList(ctx, n.list, conf)
	if err != nil {
		n.w.t.Fatalf("connect %s of %s: %v", name, ns, err)
	}
	result, err := types.NewResultFromResult(got)
	if err != nil {
		n.w.t.Fatal(err)
	}
	for _, ip := range result.IPs {
		addresses = append(addresses, ip.Address.IP.String())
		gateways = append(gateways, ip.Gateway.String())
	}
	return addresses, gateways
}

// at is an address with the server's port.
func at(address string) string { return net.JoinHostPort(address, port) }

// link is removed from the host at the world's end.
func (w *world) removeLink(name string) {
	w.atEnd(func() {
		if _, err := w.command("", "ip", "link", "delete", name); err != nil {
			w.t.Error(err)
		}
	})
}

// pods makes so many pods on the network, and returns the address of each too.
func (n *network) pods(count int) (pods []*pod, addresses []string) {
	n.w.t.Helper()
	for i := range count {
		name := fmt.Sprintf("pod%d", i)
		ns := n.w.namespace(name)
		own, _ := n.add(ns, "eth0", nil)
		pods, addresses = append(pods, n.w.pod(name, ns)), append(addresses, own[0])
	}
	return pods, addresses
}
