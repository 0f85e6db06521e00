package config

func appArmorOption() Option {
	return Option{
		Table: agentTable, Key: "apparmor_policies",
		Values: "empty, or an absolute path",
		Meaning: "A directory of AppArmor policies, as `apparmor_parser` compiles them, which each guest's kernel loads before the first container; it may have none. " +
			"Containers then run with `process.apparmorProfile` of their specifications, and one whose profile is not among them is refused, see [security modules](guest-assets.md#security-modules). " +
			"A kernel without AppArmor does not start a pod then. Empty: profiles have no effect.",
		get:   func(c *Config) any { return c.Agent.AppArmorPolicies },
		check: func(c *Config) string { return emptyOrAbsolute(c.Agent.AppArmorPolicies) },
	}
}

func selinuxOption() Option {
	return Option{
		Table: agentTable, Key: "selinux_policy",
		Values: "empty, or an absolute path",
		Meaning: "An SELinux policy, as `checkpolicy` compiles it, which each guest's kernel loads before the first container, and enforces, unless `kernel_params` has `enforcing=0`. " +
			"Containers then run with `process.selinuxLabel` and `linux.mountLabel` of their specifications, and one whose label the policy does not know is refused, see [security modules](guest-assets.md#security-modules). " +
			"A kernel without SELinux does not start a pod then. Empty: labels have no effect.",
		get: func(c *Config) any { return c.Agent.SELinuxPolicy },
		check: func(c *Config) string {
			if c.Agent.SELinuxPolicy != "" && c.Agent.AppArmorPolicies != "" {
				return "cannot be set together with apparmor_policies: a kernel runs one of the two"
			}
			return emptyOrAbsolute(c.Agent.SELinuxPolicy)
		},
	}
}

func emptyOrAbsolute(path string) string {
	if path == "" {
		return ""
	}
	return absolute(path)
}
