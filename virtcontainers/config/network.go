package config

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
	}
}

func nicOptions() []Option {
	return []Option{
		{
			Table: qemuTable, Key: "disable_vhost_net",
			Values: "`true` or `false`",
			Meaning: "Let QEMU work the queues of network interfaces even where the host's kernel can (`/dev/vhost-net`), " +
				"which is faster.",
			get:   func(c *Config) any { return c.Hypervisor.DisableVhostNet },
			check: func(*Config) string { return "" },
		},
	}
}

func networkModels() []string { return []string{NetworkTC, NetworkMacvtap, NetworkNone} }
