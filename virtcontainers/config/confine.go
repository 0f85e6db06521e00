package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The default range of users: above those that systemd and the tools for
// subordinate ids give out, and below 1<<31, which some programs take for a sign.
const (
	firstUser = 2_000_000_000
	users     = 1 << 16
	maxUser   = 1<<31 - 1
)

func confineOptions() []Option {
	return []Option{
		{
			Table: machineTable, Key: "confine",
			Values: "`true` or `false`",
			Meaning: "Confine the processes that a guest talks to. The VMM gets a user of its own without capabilities, namespaces of its own with nothing in them, and a root file system with nothing but its own files, " +
				"see [security](security.md). A VMM that serves files by `virtio-9p` is not confined, with a warning. " +
				"virtiofsd is a root with a file server's capabilities alone that finds nothing but the shared directory; passt is a user of its own, too, without capabilities and files, in the host's network.",
			get:   func(c *Config) any { return c.Hypervisor.Confine },
			check: func(*Config) string { return "" },
		},
		{
			Table: machineTable, Key: "confine_users",
			Values: fmt.Sprintf("empty, or a range of ids within 1-%d: `FIRST-LAST`", maxUser),
			Meaning: "User ids, which are group ids too, of which each confined VMM gets one for itself. Nothing else on the host may use them, but for other configurations of this runtime. " +
				"Empty: a VMM is a root without capabilities.",
			get: func(c *Config) any { return c.Hypervisor.ConfineUsers },
			check: func(c *Config) string {
				if _, _, err := c.Hypervisor.UserRange(); err != nil {
					return "must be " + err.Error()
				}
				return ""
			},
		},
		{
			Table: machineTable, Key: "confine_without",
			Values: "a list of " + oneOfText(ConfineParts()),
			Meaning: "Parts of the confinement that are left out, for a host that forbids them: each pod's log then has a warning. They are the namespaces of that name, " +
				"the root file system of its own (`root`), the filter of system calls (`system_calls`), and the session keyring (`keyring`).",
			get: func(c *Config) any { return c.Hypervisor.ConfineWithout },
			check: func(c *Config) string {
				for _, part := range c.Hypervisor.ConfineWithout {
					if !slices.Contains(ConfineParts(), part) {
						return fmt.Sprintf("has %q, which is none of %s", part, oneOfText(ConfineParts()))
					}
				}
				return ""
			},
		},
		{
			Table: machineTable, Key: "confine_agent",
			Values: "`true` or `false`",
			Meaning: "Have a process without privileges read what the guest's agent answers, rather than the pod's owner (supervisor or shim), which has root's: see [security](security.md#who-reads-what-the-guest-says). " +
				"It costs each pod a small process. Without `confine` there is none.",
			get:   func(c *Config) any { return c.Hypervisor.ConfineAgent },
			check: func(*Config) string { return "" },
		},
		{
			Table: machineTable, Key: "log_refused_calls",
			Values: "`true` or `false`",
			Meaning: "Let the kernel log each system call that it refuses a confined process, with its number (`type=1326`), as `enable_debug` does too. " +
				"Who has taken such a process over decides how many lines that are. Calls that end the process are logged in any case.",
			get:   func(c *Config) any { return c.Hypervisor.LogRefusedCalls },
			check: func(*Config) string { return "" },
		},
	}
}

// ConfineParts are what ConfineWithout may name: package jail's Parts, which this
// package does not know.
func ConfineParts() []string {
	return []string{"cgroup", "ipc", "keyring", "net", "pid", "root", "system_calls", "uts"}
}

// LogCalls tells whether the kernel is to log system calls that it refuses.
func (c *Config) LogCalls() bool { return c.Runtime.Debug || c.Hypervisor.LogRefusedCalls }

// UserRange is ConfineUsers as numbers; zeroes for an empty one.
func (m *Machine) UserRange() (first, last int, err error) {
	if m.ConfineUsers == "" {
		return 0, 0, nil
	}
	from, to, _ := strings.Cut(m.ConfineUsers, "-")
	low, errLow := strconv.ParseUint(from, 10, 32)
	high, errHigh := strconv.ParseUint(to, 10, 32)
	if errLow != nil || errHigh != nil || low < 1 || high < low || high > maxUser {
		return 0, 0, fmt.Errorf("a range of user ids within 1-%d, such as \"%s\"", maxUser, defaultUsers())
	}
	return int(low), int(high), nil
}

func defaultUsers() string {
	return fmt.Sprintf("%d-%d", firstUser, firstUser+users-1)
}
