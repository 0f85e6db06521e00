package config

const (
	factoryTable = "factory"
	// maxPool bounds the prepared machines of a front end.
	maxPool = 1000
	// maxLoad is a hundred processes that want to run for each CPU.
	maxLoad = 10000
)

func factoryOptions() []Option {
	return []Option{
		{
			Table: factoryTable, Key: "pool_size",
			Values: rangeText(0, maxPool),
			Meaning: "How many machines are booted in advance, for pods to come: by `kata-runtime factory init`, and in the background in the place of one that a pod has taken. " +
				"The commands and containerd's shim have a pool of this size each, once they are used. `0` is none: every pod starts cold. " +
				"See [Prepared machines](architecture.md#prepared-machines).",
			get:   func(c *Config) any { return int64(c.Factory.PoolSize) },
			check: func(c *Config) string { return inRange(c.Factory.PoolSize, 0, maxPool) },
		},
		{
			Table: factoryTable, Key: "template",
			Values: "`true` or `false`",
			Meaning: "A machine is saved once it has booted, and those of the pool begin as copies of it, as do pods that find the pool empty: in a fraction of the time. " +
				"Without a `pool_size` it does nothing, and with `image` in `[hypervisor]` it is an error. Copies share what [Templates](security.md#templates) lists.",
			get: func(c *Config) any { return c.Factory.Template },
			check: func(c *Config) string {
				if c.Factory.Template && c.Hypervisor.Image != "" {
					return "must be false with hypervisor.image: a machine on a disk image cannot be saved"
				}
				return ""
			},
		},
		{
			Table: factoryTable, Key: "max_load",
			Values: rangeText(0, maxLoad) + ", in percent",
			Meaning: "No machine is prepared while the host's load, the average of a minute, is more than this part of its CPUs. " +
				"`0`: whatever the load is.",
			get:   func(c *Config) any { return int64(c.Factory.MaxLoadPercent) },
			check: func(c *Config) string { return inRange(c.Factory.MaxLoadPercent, 0, maxLoad) },
		},
		{
			Table: factoryTable, Key: "min_memory",
			Values:  rangeText(0, maxMemoryMiB) + ", in MiB",
			Meaning: "No machine is prepared unless the host has `default_memory`, and this much more, available.",
			get:     func(c *Config) any { return int64(c.Factory.MinMemoryMiB) },
			check:   func(c *Config) string { return inRange(c.Factory.MinMemoryMiB, 0, maxMemoryMiB) },
		},
		{
			Table: factoryTable, Key: "dir",
			Values:  "an absolute path of at most 64 bytes",
			Meaning: "The directory by which prepared machines are found, of root's alone. It belongs on a file system that a reboot empties.",
			get:     func(c *Config) any { return c.Factory.Dir },
			check: func(c *Config) string {
				const longest = 64 // below it are sockets
				if len(c.Factory.Dir) > longest {
					return "must have at most 64 bytes"
				}
				return absolute(c.Factory.Dir)
			},
		},
	}
}
