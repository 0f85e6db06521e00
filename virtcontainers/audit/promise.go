package audit

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// user is who a process may be.
type user int

const (
	// rootUser is root alone.
	rootUser user = iota
	// ownUser is one that nobody else on the host is, nor any other pod's process.
	ownUser
	// otherUser is anybody but root.
	otherUser
)

// promise is what docs/security.md says of a process. Its zero value promises that
// it is root's.
type promise struct {
	user user
	// restricted: no new privileges, and a filter for its system calls.
	restricted bool
	// confined is restricted, without supplementary groups and core dumps.
	confined bool
	// capabilities are the most that it may have; nil: any but those given up.
	capabilities, givenUp []string
	// own are the namespaces that no process has but it, and those that it starts;
	// notHost those that are not the host's.
	own, notHost []string
	// root tells that it does not see the host's root file system: what it sees has
	// neither set-user-id programs nor devices, but for those of devices.
	root bool
	// readOnly: it can write nowhere in it.
	readOnly bool
	devices  []string
	// files are the beginnings of the kinds of files that it may have open; nil: any.
	files []string
	// limits are the most that hard limits may be.
	limits map[string]uint64
	// undumpable: others of its user cannot look into its memory.
	undumpable bool
}

// everyNamespace are those of a confined process. It has the host's users and time.
func everyNamespace() []string { return []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} }

// promiseOf finds what is promised of a process by its role.
func promiseOf(role string) (promise, bool) {
	// What a helper starts is as it is.
	p, ok := promises()[strings.TrimPrefix(role, childOf)]
	switch strings.TrimPrefix(role, childOf) {
	case RoleSupervisor, RoleShim: // what these start is confined, or has no business there
		ok = ok && !strings.HasPrefix(role, childOf)
	}
	return p, ok
}

// promises is the table of docs/security.md.
func promises() map[string]promise {
	const (
		noCore    = 1 // with which the kernel starts no program either that would take one
		maxShared = 200_000
	)
	inMemory := []string{"pipe", "memory", "eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "device /dev/null", "unix socket"}
	return map[string]promise{
		RoleVMM: {
			user: ownUser, confined: true, capabilities: []string{}, own: everyNamespace(),
			root: true, readOnly: true, devices: []string{"kvm", "null", "urandom"},
			files: append([]string{
				"file", "disk", "device /dev/kvm", "device /dev/urandom", "device /dev/net/tun", "device /dev/tap",
				"device /dev/vhost-net", "device /dev/vhost-vsock", "kvm-vm", "kvm-vcpu", "kvm-device",
			}, inMemory...),
			limits: map[string]uint64{"Max core file size": noCore, "Max open files": 1 << 16, "Max processes": 2048},
		},
		"virtiofsd": {
			user: rootUser, confined: true, own: everyNamespace(), root: true,
			capabilities: []string{
				"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETUID", "SETGID", "MKNOD", "SETFCAP",
				"SETPCAP", "SYS_CHROOT", // until it serves
			},
			files:  append([]string{"file", "directory", "link", "socket file"}, inMemory...),
			limits: map[string]uint64{"Max core file size": noCore, "Max open files": maxShared},
		},
		"kata-fs": {
			user: rootUser, confined: true, own: everyNamespace(), root: true,
			capabilities: []string{
				"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETUID", "SETGID", "MKNOD", "SETFCAP",
			},
			files:  append([]string{"file", "directory", "link", "socket file", "device ", "disk"}, inMemory...),
			limits: map[string]uint64{"Max core file size": noCore, "Max open files": maxShared},
		},
		"vsock": {
			user: ownUser, confined: true, capabilities: []string{}, own: everyNamespace(),
			root: true, readOnly: true, devices: []string{}, files: inMemory,
			limits: map[string]uint64{"Max core file size": noCore, "Max open files": 4096, "Max processes": 2048}, undumpable: true,
		},
		"reader": {
			user: ownUser, confined: true, capabilities: []string{}, own: everyNamespace(),
			root: true, readOnly: true, devices: []string{}, files: append([]string{"vsock socket"}, inMemory...),
			limits: map[string]uint64{"Max core file size": noCore, "Max open files": 64, "Max processes": 2048}, undumpable: true,
		},
		"passt": {
			user: otherUser, confined: true, capabilities: []string{"NET_BIND_SERVICE"},
			own: []string{"cgroup", "ipc", "mnt", "pid", "uts"}, root: true,
			limits: map[string]uint64{"Max core file size": noCore, "Max open files": 1 << 15},
		},
		RoleStandIn: {notHost: []string{"mnt"}, root: true},
		RoleHolder:  {notHost: []string{"mnt"}, root: true, readOnly: true, files: []string{"pipe", "eventfd", "eventpoll", "device /dev/null"}},
		RoleSupervisor: {
			notHost: []string{"mnt"}, restricted: true,
			givenUp: []string{
				"AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "DAC_READ_SEARCH", "IPC_OWNER", "LEASE",
				"LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "NET_BROADCAST", "PERFMON", "SYS_BOOT", "SYS_MODULE", "SYS_PACCT",
				"SYS_RAWIO", "SYS_TIME", "SYS_TTY_CONFIG", "SYSLOG", "WAKE_ALARM",
			},
		},
		RoleShim: {notHost: []string{"mnt"}},
	}
}

// broken says which promises a process does not keep. inherited is how many filters of
// system calls a process of the pod has from its owner.
func broken(p *Process, strangers map[int]bool, inherited int) []string {
	want, ok := promiseOf(p.Role)
	if !ok {
		return []string{"nothing is promised of such a process: find out what " + p.Program + " does there"}
	}
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	checkUser(p, want.user, strangers, add)
	if want.confined && len(p.Supplementary) > 0 {
		add("it has supplementary groups: %v", p.Supplementary)
	}
	if want.confined || want.restricted {
		checkRestricted(p, add)
	}
	// Where the kernel tells, all have one.
	if want.confined && p.Seccomp == "filter" && p.Filters > 0 && p.Filters <= inherited {
		add("it has no filter for its system calls but that of the pod's owner")
	}
	checkCapabilities(p, want, add)
	if want.undumpable && p.Dumpable == "yes" {
		add("others of its user can look into its memory")
	}
	for _, name := range slices.Concat(want.own, want.notHost) {
		if p.Namespaces[name].Whose == "host" {
			add("it is in the host's %s namespace", name)
		}
	}
	for _, name := range want.own {
		switch whose := p.Namespaces[name].Whose; whose {
		case "host", "own", childOf + p.Role, strings.TrimPrefix(p.Role, childOf):
		default:
			add("its %s namespace is also that of: %s", name, whose)
		}
	}
	checkRoot(p, want, add)
	for part, asked := range map[string]bool{partFiles: want.files != nil, partRoot: want.devices != nil} {
		if asked && slices.Contains(p.Silent, part) {
			add("nothing is known of its %s: %v", part, errSilent)
		}
	}
	for kind := range p.Files {
		if want.files != nil && !slices.ContainsFunc(want.files, func(known string) bool { return strings.HasPrefix(kind, known) }) {
			add("it has something open that it has no use for: %s", kind)
		}
	}
	for name, most := range want.limits {
		limit, ok := p.Limits[name]
		if !ok || limit.Hard > most {
			add("%s is %s, not %d or less", strings.ToLower(name), number(limit.Hard), most)
		}
	}
	slices.Sort(found)
	return found
}

func checkUser(p *Process, want user, strangers map[int]bool, add func(string, ...any)) {
	if want == rootUser {
		return // which has its capabilities, or none
	}
	for _, id := range slices.Concat(p.Users, p.Groups) {
		if id == 0 {
			add("it is root, or of root's group")
			return
		}
	}
	if want != ownUser {
		return
	}
	if len(p.Users) != 1 || !slices.Equal(p.Users, p.Groups) {
		add("it has more than one user and group: %v, %v", p.Users, p.Groups)
	}
	for _, id := range p.Users {
		if strangers[id] {
			add("a process that is not of this pod has its user %d", id)
		}
	}
}

func checkRestricted(p *Process, add func(string, ...any)) {
	if !p.NoNewPrivs {
		add("a program can give it new privileges (no_new_privs is not set)")
	}
	if p.Seccomp != "filter" {
		add("its system calls are not filtered")
	}
}

func checkCapabilities(p *Process, want promise, add func(string, ...any)) {
	allowed := ^Capabilities(0)
	names := want.givenUp
	if want.capabilities != nil {
		names = want.capabilities
	}
	set, err := capabilitySet(names...)
	switch {
	case err != nil: // never
		add("%v", err)
	case want.capabilities != nil:
		allowed = set
	default:
		allowed &^= set
	}
	c := p.Capabilities
	if p.Namespaces["user"].Whose != "host" {
		// A user namespace of its own begins with a full one, which is worth nothing
		// outside: what the process can use there are its other sets.
		c.Bounding = 0
	}
	for _, set := range []struct {
		name string
		has  Capabilities
	}{
		{"inheritable", c.Inheritable}, {"permitted", c.Permitted}, {"effective", c.Effective}, {"bounding", c.Bounding}, {"ambient", c.Ambient},
	} {
		if more := set.has &^ allowed; more != 0 {
			add("its %s set has more capabilities than it may have: %s", set.name, more)
		}
	}
}

func checkRoot(p *Process, want promise, add func(string, ...any)) {
	if !want.root {
		return
	}
	if p.Root.Host {
		add("it sees the host's root file system")
		return
	}
	for _, m := range p.Root.Mounts {
		if !slices.Contains(m.Options, "nosuid") {
			add("it sees set-user-id programs at %s", m.Place)
		}
		if want.readOnly && !slices.Contains(m.Options, "ro") {
			add("it can write at %s", m.Place)
		}
		if !slices.Contains(m.Options, "nodev") && (m.Place != "/" || want.devices == nil) {
			add("devices can be opened at %s", m.Place)
		}
	}
	for _, device := range p.Root.Devices {
		if want.devices != nil && !slices.Contains(want.devices, device) {
			add("it sees the device %s", device)
		}
	}
}

func number(n uint64) string {
	if n == ^uint64(0) {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}
