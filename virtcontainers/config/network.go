package config

import (
	"fmt"
	"regexp"
)

func networkOptions() []Option {
	return []Option{
		{
			Table: runtimeTable, Key: "internetworking_model",
			Values: oneOfText(networkModels()),
			Meaning: "How the interfaces of a pod's network namespace are connected to the VM. " +
				"`tcfilter` is a tap, and traffic control that sends what either receives out of the other. " +
				"`macvtap` is a macvtap interface on top of each. `none` connects nothing: the pod has loopback only.",
			get:   func(c *Config) any { return c.Runtime.NetworkModel },
			check: func(c *Config) string { return oneOf(c.Runtime.NetworkModel, networkModels()) },
		},
		{
			Table: runtimeTable, Key: "host_network",
			Values: oneOfText(hostNetworks()),
			Meaning: "What becomes of a pod that asks for the host's network, which a VM cannot have. `refuse` is an error. " +
				"`passt` gives it the host's addresses and lets [passt](https://passt.top) send from the host, in user space, what the pod sends: " +
				"TCP, UDP and ICMP echo. The host's interfaces are neither seen nor touched.",
			get:   func(c *Config) any { return c.Runtime.HostNetwork },
			check: func(c *Config) string { return oneOf(c.Runtime.HostNetwork, hostNetworks()) },
		},
		hostPortsOption("host_network_tcp_ports", "TCP", func(c *Config) *string { return &c.Runtime.HostTCPPorts }),
		hostPortsOption("host_network_udp_ports", "UDP", func(c *Config) *string { return &c.Runtime.HostUDPPorts }),
	}
}

func nicOptions() []Option {
	return []Option{
		{
			Table: machineTable, Key: "disable_vhost_net",
			Values: "`true` or `false`",
			Meaning: "Let the VMM work the queues of network interfaces even where the host's kernel can (`/dev/vhost-net`), " +
				"which is faster.",
			get:   func(c *Config) any { return c.Hypervisor.DisableVhostNet },
			check: func(*Config) string { return "" },
		},
	}
}

func hostPortsOption(key, protocol string, field func(*Config) *string) Option {
	return Option{
		Table: runtimeTable, Key: key,
		Values: "`none`, `all`, or ports and ranges: `80,8000-8010`",
		Meaning: "The host's " + protocol + " ports that lead to a pod with `host_network = \"passt\"`. " +
			"`all` takes every port that is free when the pod starts and is not one of the kernel's for outgoing connections.",
		get: func(c *Config) any { return *field(c) },
		check: func(c *Config) string {
			if value := *field(c); !regexp.MustCompile(`^(none|all|[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*)$`).MatchString(value) {
				return fmt.Sprintf("is %q, not none, all, or ports and ranges", value)
			}
			return ""
		},
	}
}

func hostNetworks() []string { return []string{HostNetworkRefuse, HostNetworkPasst} }

func networkModels() []string { return []string{NetworkTC, NetworkMacvtap, NetworkNone} }
