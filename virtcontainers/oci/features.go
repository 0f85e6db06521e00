package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// SpecVersion is the version of the OCI runtime-spec that this runtime follows,
// and oldestSpecVersion the oldest whose configurations are accepted.
const (
	SpecVersion       = "1.3.0"
	oldestSpecVersion = "1.0.0"
)

// SecurityModules are those of the guests' kernel that the configuration has policies
// for: labels of the others have no effect.
type SecurityModules struct{ AppArmor, SELinux bool }

// Features is what a build of the runtime, by its version and commit, supports:
// what works; callers switch features on by it. A test behind the
// tag vm makes containers that use it. Everything but hooks and id-mapped mounts
// happens in the guest, so that nothing depends on the host's kernel; that must
// have mount_setattr(2) in any case.
func Features(version, commit string, modules SecurityModules) *features.Features {
	return &features.Features{
		OCIVersionMin: oldestSpecVersion,
		OCIVersionMax: SpecVersion,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  mountOptions(),
		Linux: &features.Linux{
			Namespaces: []string{
				string(specs.CgroupNamespace), string(specs.IPCNamespace), string(specs.MountNamespace),
				string(specs.NetworkNamespace), string(specs.PIDNamespace), string(specs.TimeNamespace),
				string(specs.UserNamespace), string(specs.UTSNamespace),
			},
			Capabilities: capabilities(),
			// Limits are the guest's, whose cgroups are those of version 2,
			// on hosts of either version.
			Cgroup: &features.Cgroup{
				V1: new(true), V2: new(true), Systemd: new(true), SystemdUser: new(false), Rdma: new(false),
			},
			Seccomp:         seccompFeatures(),
			Apparmor:        &features.Apparmor{Enabled: new(modules.AppArmor)},
			Selinux:         &features.Selinux{Enabled: new(modules.SELinux)},
			IntelRdt:        &features.IntelRdt{Enabled: new(false)},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: new(true)}},
			NetDevices:      &features.NetDevices{Enabled: new(false)},
		},
		Annotations: map[string]string{
			"io.katacontainers.runtime.version":          version,
			"io.katacontainers.runtime.commit":           commit,
			"org.opencontainers.runc.checkpoint.enabled": "false",
		},
	}
}

// mountOptions are those of any mount. Those of id-mapped mounts are no options
// but an extension.
func mountOptions() []string {
	return []string{
		"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion", "lazytime", "loud",
		"noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "norelatime", "nostrictatime",
		"nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime", "relatime", "rexec",
		"rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow",
		"ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow",
		"runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid", "symfollow", "sync", "tmpcopyup",
		"unbindable",
	}
}

func capabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
		"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO",
		"CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
		"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
		"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// seccompFeatures are those of the agent's libseccomp, without the action and
// the flag that need a listener on the host.
func seccompFeatures() *features.Seccomp {
	flags := []string{
		string(specs.LinuxSeccompFlagLog), string(specs.LinuxSeccompFlagSpecAllow), "SECCOMP_FILTER_FLAG_TSYNC",
	}
	return &features.Seccomp{
		Enabled: new(true),
		Actions: []string{
			string(specs.ActAllow), string(specs.ActErrno), string(specs.ActKill), string(specs.ActKillProcess),
			string(specs.ActKillThread), string(specs.ActLog), string(specs.ActTrace), string(specs.ActTrap),
		},
		Operators: []string{
			string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpLessEqual),
			string(specs.OpLessThan), string(specs.OpMaskedEqual), string(specs.OpNotEqual),
		},
		Archs:      []string{string(specs.ArchX86), string(specs.ArchX86_64), string(specs.ArchX32)},
		KnownFlags: flags, SupportedFlags: flags,
	}
}
