//go:build vm

package vm

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// TestPacketFilters sets rules by both kinds of iptables, with the host's
// programs, and sees them work; then what a service mesh sets, and kube-proxy. At last
// come system calls that images make.
func TestPacketFilters(t *testing.T) {
	h := harness.New(t)
	calls := h.File("calls")
	for _, arch := range []string{"amd64", "386"} {
		if err := program.BuildFor(t.Context(), arch, filepath.Join(calls, arch), "kata-runtime/test/vm/internal/kernelcalls"); err != nil {
			t.Fatal(err)
		}
	}
	spec := bundle.Spec("/bin/sh", "-c", `
set -e
for iptables in iptables-nft iptables-legacy; do
	$iptables -t nat -A OUTPUT -p tcp -d 127.0.0.1 --dport 81 -m comment --comment test -j REDIRECT --to-ports 8080
	$iptables -A INPUT -p tcp --dport 82 -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset
	echo redirected | nc -l -p 8080 &
	until nc -w 1 127.0.0.1 81 < /dev/null; do :; done
	wait
	nc -w 5 127.0.0.1 82 < /dev/null && echo not rejected
	$iptables -t nat -F
	$iptables -F
	ip6tables${iptables#iptables} -t nat -A POSTROUTING -o eth9 -j MASQUERADE
	$iptables -t nat -A OUTPUT -m owner --uid-owner 1337 -j RETURN
	$iptables -t raw -A OUTPUT -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
	$iptables -t mangle -A PREROUTING -p tcp -m socket -j MARK --set-mark 0x539
	$iptables -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539
	$iptables -t nat -A PREROUTING -m statistic --mode random --probability 0.5 -m recent --rcheck --seconds 9 --name a -j DNAT --to-destination 10.0.0.1
	$iptables -A FORWARD -p tcp -m connlimit --connlimit-above 9 -m hashlimit --hashlimit-above 9/s --hashlimit-name b -j DROP
	$iptables -t mangle -F
	$iptables -t raw -F
	$iptables -t nat -F
	$iptables -F
done
ip link add dummy7 type dummy
ip link add br7 type bridge
ip link add veth7 type veth peer name veth8
ip link add link dummy7 name dummy7.9 type vlan id 9
ip link add macvlan7 link dummy7 type macvlan
ip link add wg7 type wireguard
/calls/amd64
/calls/386
echo done`)
	bundle.Privileged(spec)
	for from, to := range map[string]string{"/usr": "/usr", "/usr/lib": "/lib", "/usr/lib64": "/lib64"} {
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: from, Destination: to, Options: []string{"rbind", "ro"}})
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/run"}, // xtables.lock
		specs.Mount{Type: "bind", Source: calls, Destination: "/calls", Options: []string{"bind", "ro"}})
	result := h.Run("run", "-b", h.Bundle(spec), h.ID())
	if result.Code != 0 || strings.Count(result.Stdout, "redirected") != 2 || strings.Contains(result.Stdout, "not rejected") ||
		!strings.HasSuffix(result.Stdout, "done\n") {
		t.Errorf("exit code %d\n%s%s", result.Code, result.Stdout, result.Stderr)
	}
}
