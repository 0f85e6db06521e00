package audit

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// capabilityNames are in the order of linux/capability.h.
func capabilityNames() []string {
	return []string{
		"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
		"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
		"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
		"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
		"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
		"CHECKPOINT_RESTORE",
	}
}

// Capabilities is a set of capabilities, a bit for each.
type Capabilities uint64

// Names are those of the set, in the kernel's order; a newer kernel's has its
// number.
func (c Capabilities) Names() []string {
	known := capabilityNames()
	names := []string{}
	for set := uint64(c); set != 0; set &= set - 1 {
		number := bits.TrailingZeros64(set)
		name := strconv.Itoa(number)
		if number < len(known) {
			name = known[number]
		}
		names = append(names, name)
	}
	return names
}

// String lists the names; of a set with nearly all it says which are missing.
func (c Capabilities) String() string {
	all := Capabilities(1)<<len(capabilityNames()) - 1
	switch {
	case c == 0:
		return "none"
	case c&all == all:
		return "all"
	case bits.OnesCount64(uint64(all&^c)) < 8:
		return "all but " + strings.Join((all&^c).Names(), ",")
	}
	return strings.Join(c.Names(), ",")
}

// MarshalText writes the names.
func (c Capabilities) MarshalText() ([]byte, error) { return []byte(strings.Join(c.Names(), " ")), nil }

// UnmarshalText is MarshalText's reverse.
func (c *Capabilities) UnmarshalText(text []byte) error {
	set, err := capabilitySet(strings.Fields(string(text))...)
	*c = set
	return err
}

// capabilitySet is the set of capabilities with these names.
func capabilitySet(names ...string) (Capabilities, error) {
	var set Capabilities
	for _, name := range names {
		number := -1
		for i, known := range capabilityNames() {
			if known == name {
				number = i
			}
		}
		if number < 0 {
			parsed, err := strconv.ParseUint(name, 10, 6)
			if err != nil {
				return 0, fmt.Errorf("no such capability: %q", name)
			}
			number = int(parsed)
		}
		set |= 1 << number
	}
	return set, nil
}
