package protocol_test

import (
	"testing"

	"kata-runtime/guest/protocol"
)

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":          "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":          "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/1.rp":      "net/ipv4/conf/eth0.1/rp",
		"net/ipv4/conf/eth0.1/rp":      "net/ipv4/conf/eth0.1/rp",
		"net//ipv4":                    "net/ipv4",
		"net..ipv4":                    "net/ipv4",
		"kernel.shmmax":                "kernel/shmmax",
		"plain":                        "plain",
		"net/../kernel/core_pattern":   "",
		"net.//.kernel.core_pattern":   "",
		"net/../../sysrq-trigger":      "",
		"fs.mqueue.//.//.sysrq":        "",
		"/proc/sys/kernel/core":        "",
		".kernel":                      "",
		"..":                           "",
		"../net/x":                     "",
		"//.net":                       "",
		"":                             "",
		"net.ipv4.x\x00y":              "",
		"net/ipv4/conf/a..b/rp_filter": "net/ipv4/conf/a..b/rp_filter",
	} {
		if got, ok := protocol.SysctlPath(name); got != want || ok != (want != "") {
			t.Errorf("SysctlPath(%q) = %q, %v; want %q", name, got, ok, want)
		}
	}
}
