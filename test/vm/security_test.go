//go:build vm

package vm

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kata-runtime/test/harness"
)

// secured is a process in the output of check --security --json.
type secured struct {
	Role                string
	PID, Filters        int
	Users, Groups       []int
	SupplementaryGroups []int
	Capabilities        map[string]string
	NoNewPrivs          bool
	Seccomp, Dumpable   string
	Namespaces          map[string]struct{ Whose string }
	Root                struct{ Host bool }
	Files               map[string]int
	Limits              map[string]struct{ Soft, Hard uint64 }
	Cgroups             map[string]string
	Broken              []string
}

// expected is a line of the table in docs/security.md: fields as they are to be
// printed, where more than one is possible with | between them.
type expected struct {
	user                            string // own: of confine_users
	effective, bounding             string // sets of capabilities, or "any"
	givenUp                         string // capabilities that no set has
	ownGroup                        bool   // its control group may be another one than the supervisor's
	noNewPrivs                      bool
	seccomp                         string
	cgroup, ipc, mnt, net, pid, uts string // namespaces
	users                           string // that of users; "": the host's
	hostRoot                        bool
	core, files, processes          uint64 // the most that hard limits may be; 0: any
	dumpable                        string
	open                            []string // kinds of open files
}

// givenUp are the supervisor's, which has no use for them.
const givenUp = "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE DAC_READ_SEARCH IPC_OWNER LEASE LINUX_IMMUTABLE " +
	"MAC_ADMIN MAC_OVERRIDE NET_BROADCAST PERFMON SYS_BOOT SYS_MODULE SYS_PACCT SYS_RAWIO SYS_TIME SYS_TTY_CONFIG SYSLOG WAKE_ALARM"

const (
	unlimited      = 0
	fileServerCaps = "CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID SETPCAP SYS_CHROOT MKNOD SETFCAP"
)

// expectations is the table, by the roles of processes.
func expectations() map[string]expected {
	return map[string]expected{
		"vmm": {
			user: "own", noNewPrivs: true, seccomp: "filter",
			cgroup: "own", ipc: "own", mnt: "own", net: "own", pid: "own", uts: "own",
			core: 1, files: 65536, processes: 2048, dumpable: "yes",
			open: []string{
				"device /dev/kvm", "device /dev/net/tun", "device /dev/null", "device /dev/urandom", "device /dev/vhost-net", "device /dev/vhost-vsock",
				"eventfd", "eventpoll", "kvm-vcpu", "kvm-vm", "memory", "pipe", "signalfd", "timerfd", "unix socket",
			},
		},
		"virtiofsd": {
			user: "0", effective: fileServerCaps, bounding: fileServerCaps, noNewPrivs: true, seccomp: "filter",
			cgroup: "own", ipc: "own", mnt: "own", net: "own", pid: "own", uts: "own",
			core: 1, files: 200_000, processes: unlimited, dumpable: "unknown",
			open: []string{"device /dev/null", "directory", "eventfd", "file", "link", "memory", "pipe", "unix socket"},
		},
		"kata-fs": {
			user: "0", effective: "CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID MKNOD SETFCAP",
			bounding: "CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID MKNOD SETFCAP", noNewPrivs: true, seccomp: "filter",
			cgroup: "own", ipc: "own", mnt: "own", net: "own", pid: "own", uts: "own",
			core: 1, files: 200_000, processes: unlimited, dumpable: "unknown",
		},
		"vsock": {
			user: "own", noNewPrivs: true, seccomp: "filter",
			cgroup: "own", ipc: "own", mnt: "own", net: "own", pid: "own", uts: "own",
			core: 1, files: 4096, processes: 2048, dumpable: "no",
			open: []string{"device /dev/null", "eventfd", "eventpoll", "memory", "pipe", "unix socket"},
		},
		"reader": {
			user: "own", noNewPrivs: true, seccomp: "filter",
			cgroup: "own", ipc: "own", mnt: "own", net: "own", pid: "own", uts: "own",
			core: 1, files: 64, processes: 2048, dumpable: "no",
			open: []string{"device /dev/null", "eventfd", "eventpoll", "pipe", "unix socket", "vsock socket"},
		},
		"passt": {
			user: "own|65534", users: "own", effective: "|NET_BIND_SERVICE", bounding: "any", noNewPrivs: true, seccomp: "filter",
			cgroup: "own", ipc: "own", mnt: "own", net: "host", pid: "own", uts: "own",
			core: 1, files: 32768, processes: 16, dumpable: "no|yes",
		},
		"supervisor": {
			user: "0", effective: "any", bounding: "any", givenUp: givenUp, noNewPrivs: true, seccomp: "filter",
			cgroup: "host", ipc: "host", mnt: "own", net: "host", pid: "host", uts: "host", hostRoot: true, dumpable: "unknown",
		},
		"stand-in": {
			user: "0", effective: "any", bounding: "any", ownGroup: true, seccomp: "none",
			cgroup: "own", ipc: "own", mnt: "own", net: "host|own", pid: "own", uts: "own", dumpable: "unknown",
			open: []string{"device /dev/null", "eventfd", "eventpoll", "file", "pipe", "unix socket"},
		},
	}
}

// checkSecurity compares what the command says of a pod's processes with the table:
// it has these roles and no others, and keeps every promise.
func checkSecurity(h *harness.Host, id string, roles ...string) {
	h.T.Helper()
	result := h.Run("check", "--security", id, "--json")
	var report struct {
		Kept      bool
		Processes []secured
	}
	if err := json.Unmarshal([]byte(result.Stdout), &report); err != nil {
		h.T.Fatalf("check --security: %v: exit code %d: %s", err, result.Code, result.Stderr)
	}
	if result.Code != 0 || !report.Kept {
		h.T.Errorf("check --security: exit code %d, kept %t: %s", result.Code, report.Kept, result.Stderr)
	}
	if len(report.Processes) == 0 || report.Processes[0].Role != "supervisor" {
		h.T.Fatalf("check --security: the pod's owner is not the first: %s", result.Stdout)
	}
	var found []string
	for _, p := range report.Processes {
		found = append(found, p.Role)
		for _, text := range p.Broken {
			h.T.Errorf("%s: %s", p.Role, text)
		}
		want, ok := expectations()[p.Role]
		if !ok {
			h.T.Errorf("process %d: nothing is expected of a %s", p.PID, p.Role)
			continue
		}
		compareSecurity(h.T, p, want, report.Processes[0].Cgroups)
	}
	found = slices.DeleteFunc(found, func(role string) bool { return role == "vsock" }) // where the host has no vhost-vsock
	if harness.Reader() == "" && !slices.Contains(roles, "reader") {
		roles = append(roles, "reader")
	}
	slices.Sort(found)
	slices.Sort(roles)
	if !slices.Equal(found, roles) {
		h.T.Errorf("the pod's processes are %q, want %q", found, roles)
	}
}

// compareSecurity compares a process of a pod, whose supervisor has the control groups,
// with its line.
func compareSecurity(t testing.TB, p secured, want expected, group map[string]string) {
	t.Helper()
	is := func(what, got, wanted string) {
		if !slices.Contains(strings.Split(wanted, "|"), got) && wanted != "any" {
			t.Errorf("%s: %s is %q, want %q", p.Role, what, got, wanted)
		}
	}
	if len(p.Users) != 1 || !slices.Equal(p.Users, p.Groups) || len(p.SupplementaryGroups) != 0 {
		t.Errorf("%s: users %v, groups %v, supplementary %v", p.Role, p.Users, p.Groups, p.SupplementaryGroups)
	} else {
		user := strconv.Itoa(p.Users[0])
		if p.Users[0] >= 2_000_000_000 && p.Users[0] <= 2_000_065_535 {
			user = "own"
		}
		is("the user", user, want.user)
	}
	is("the effective set", p.Capabilities["effective"], want.effective)
	is("the permitted set", p.Capabilities["permitted"], want.effective)
	is("the bounding set", p.Capabilities["bounding"], want.bounding)
	is("the inheritable set", p.Capabilities["inheritable"], "")
	is("the ambient set", p.Capabilities["ambient"], "")
	is("seccomp", p.Seccomp, want.seccomp)
	is("dumpable", p.Dumpable, want.dumpable)
	if p.NoNewPrivs != want.noNewPrivs || p.Root.Host != want.hostRoot || (want.seccomp == "filter") != (p.Filters > 0) {
		t.Errorf("%s: no_new_privs %t, the host's root %t, %d filters", p.Role, p.NoNewPrivs, p.Root.Host, p.Filters)
	}
	is("the user namespace", p.Namespaces["user"].Whose, cmp.Or(want.users, "host"))
	for name, whose := range map[string]string{
		"cgroup": want.cgroup, "ipc": want.ipc, "mnt": want.mnt, "net": want.net, "pid": want.pid, "uts": want.uts, "time": "host",
	} {
		is("the "+name+" namespace", p.Namespaces[name].Whose, whose)
	}
	for name, most := range map[string]uint64{"Max core file size": want.core, "Max open files": want.files, "Max processes": want.processes} {
		if limit, ok := p.Limits[name]; !ok || most != unlimited && limit.Hard > most || limit.Soft > limit.Hard {
			t.Errorf("%s: %s %+v, want %d at most", p.Role, name, limit, most)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(p.Files)) {
		if want.open != nil && !slices.Contains(want.open, kind) {
			t.Errorf("%s: has open: %s", p.Role, kind)
		}
	}
	for name, set := range p.Capabilities {
		for capability := range strings.FieldsSeq(set) {
			if slices.Contains(strings.Fields(want.givenUp), capability) {
				t.Errorf("%s: its %s set has %s", p.Role, name, capability)
			}
		}
	}
	if len(p.Cgroups) == 0 || !want.ownGroup && !maps.Equal(p.Cgroups, group) {
		t.Errorf("%s: its control groups are %v, the supervisor's %v", p.Role, p.Cgroups, group)
	}
}
