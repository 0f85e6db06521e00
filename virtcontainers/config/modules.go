package config

import (
	"fmt"
	"regexp"
	"strings"
)

// rareModules are what few programs need, and what has had more than its share of
// faults: network protocols that distributions do not load on demand, and file systems
// of other machines.
func rareModules() []string {
	return []string{
		"appletalk", "atm", "ax25", "can", "dccp", "ieee802154", "netrom", "phonet", "rds", "rose", "tipc", "x25",
		"n_gsm", "n_hdlc",
		"affs", "befs", "cramfs", "efs", "freevxfs", "hfs", "hfsplus", "hpfs", "jffs2", "minix", "omfs", "qnx4", "qnx6", "sysv", "ufs",
	}
}

func moduleOptions() []Option {
	return []Option{
		{
			Table: machineTable, Key: "modules",
			Values: "empty, or an absolute path",
			Meaning: "The modules of the guest's kernel: a directory such as `/lib/modules`, with one directory per release, as `kernel-config` makes it. " +
				"The guest loads from it what its kernel asks for when a container mounts a file system, adds a link, opens a socket or sets a rule, see [kernel modules](kernel-modules.md). " +
				"Empty: the guest has what its kernel and its initrd have.",
			get: func(c *Config) any { return c.Hypervisor.Modules },
			check: func(c *Config) string {
				if c.Hypervisor.Modules == "" {
					return ""
				}
				return absolute(c.Hypervisor.Modules)
			},
		},
		{
			Table: machineTable, Key: "deny_modules",
			Values:  "a list of modules' names",
			Meaning: "Modules that a guest does not load on demand, nor those that depend on them. `vsock_loopback` and `vhost_vsock` never are.",
			get:     func(c *Config) any { return c.Hypervisor.DenyModules },
			check:   func(c *Config) string { return moduleNames(c.Hypervisor.DenyModules) },
		},
	}
}

func kernelModulesOption() Option {
	return Option{
		Table: agentTable, Key: "kernel_modules",
		Values: "a list of modules' names, each with parameters behind it",
		Meaning: "Modules that each guest loads at its start, such as `[\"br_netfilter\", \"nf_conntrack hashsize=65536\"]`: those that programs would load by `modprobe`, which containers cannot. " +
			"They are taken from `modules` in `[hypervisor]`; one that is not there is an error.",
		get: func(c *Config) any { return c.Agent.KernelModules },
		check: func(c *Config) string {
			if len(c.Agent.KernelModules) > 0 && c.Hypervisor.Modules == "" {
				return "needs the directory of the kernel's modules: set modules in [" + machineTable + "]"
			}
			var names []string
			for _, line := range c.Agent.KernelModules {
				name, _, _ := strings.Cut(line, " ")
				names = append(names, name)
			}
			return moduleNames(names)
		},
	}
}

func moduleNames(names []string) string {
	pattern := regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)
	for _, name := range names {
		if !pattern.MatchString(name) {
			return fmt.Sprintf("must hold names of modules: %s is none", shown(name))
		}
	}
	return ""
}
