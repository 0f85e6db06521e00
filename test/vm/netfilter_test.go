//go:build vm

package vm

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestPacketFilters sets rules by both kinds of iptables, with the host's
// programs, and sees them work.
func TestPacketFilters(t *testing.T) {
	h := harness.New(t)
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
done
ip link add dummy7 type dummy
ip link add br7 type bridge
ip link add veth7 type veth peer name veth8
echo done`)
	spec.Process.Capabilities.Bounding = append(spec.Process.Capabilities.Bounding, "CAP_NET_ADMIN")
	spec.Process.Capabilities.Effective = append(spec.Process.Capabilities.Effective, "CAP_NET_ADMIN")
	spec.Process.Capabilities.Permitted = append(spec.Process.Capabilities.Permitted, "CAP_NET_ADMIN")
	for from, to := range map[string]string{"/usr": "/usr", "/usr/lib": "/lib", "/usr/lib64": "/lib64"} {
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: from, Destination: to, Options: []string{"rbind", "ro"}})
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/run"}) // xtables.lock
	result := h.Run("run", "-b", h.Bundle(spec), h.ID())
	if result.Code != 0 || strings.Count(result.Stdout, "redirected") != 2 || strings.Contains(result.Stdout, "not rejected") ||
		!strings.HasSuffix(result.Stdout, "done\n") {
		t.Errorf("exit code %d\n%s%s", result.Code, result.Stdout, result.Stderr)
	}
}
