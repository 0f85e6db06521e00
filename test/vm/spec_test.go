//go:build vm

package vm

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// fact is one thing that a container can see of its own configuration.
type fact struct{ name, command, want string }

// checkFacts runs one container that prints each fact, and compares.
func checkFacts(t *testing.T, spec *specs.Spec, facts []fact) {
	t.Helper()
	checkFactsOn(t, harness.New(t), spec, facts)
}

func checkFactsOn(t *testing.T, h *harness.Host, spec *specs.Spec, facts []fact) {
	t.Helper()
	var script strings.Builder
	for i, f := range facts {
		fmt.Fprintf(&script, "echo \"fact %d: $( (%s) 2>&1 | tr '\\n' ' ')\"\n", i, f.command)
	}
	spec.Process.Args = []string{"/bin/sh", "-c", script.String()}

	result := h.Run("run", "-b", h.Bundle(spec), h.ID())

	wantCode(t, result, 0)
	lines := strings.Split(result.Stdout, "\n")
	for i, f := range facts {
		want := fmt.Sprintf("fact %d: %s", i, f.want)
		if i >= len(lines) || strings.TrimSpace(lines[i]) != want {
			t.Errorf("%s: %q, want %q", f.name, at(lines, i), want)
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "nothing"
}

func TestSpecOfAUsersProcess(t *testing.T) {
	umask, oom := uint32(0o027), 500
	limit, period, quota, pids := int64(64<<20), uint64(100000), int64(50000), int64(77)
	spec := bundle.Spec()
	spec.Hostname = "named"
	spec.Process.Cwd = "/tmp"
	spec.Process.Env = append(spec.Process.Env, "GREETING=hello there")
	spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{2000, 2001}, Umask: &umask}
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 333, Hard: 444}}
	spec.Process.OOMScoreAdj = &oom
	spec.Linux.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit},
		CPU:    &specs.LinuxCPU{Period: &period, Quota: &quota},
		Pids:   &specs.LinuxPids{Limit: &pids},
	}
	// Too large to go anywhere together with its other forms.
	spec.Annotations = map[string]string{"large": strings.Repeat("x", 1400<<10)}
	// The guest has one node, which the kernel need not know of.
	spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActErrno}},
	}
	const status = `awk '/^%s:/ {print $2}' /proc/self/status`
	checkFacts(t, spec, []fact{
		{"arguments and environment", `echo "$GREETING"`, "hello there"},
		{"working directory", "pwd", "/tmp"},
		{"user and groups", `echo $(id -u) $(id -g) $(id -G)`, "1000 1001 1001 2000 2001"},
		{"umask", "umask", "0027"},
		{"host name", "hostname", "named"},
		{"rlimit", "ulimit -Sn; ulimit -Hn", "333 444"},
		{"oom_score_adj", "cat /proc/self/oom_score_adj", "500"},
		{"effective capabilities of a user", fmt.Sprintf(status, "CapEff"), "0000000000000000"},
		{"no new privileges", fmt.Sprintf(status, "NoNewPrivs"), "1"},
		{"seccomp", fmt.Sprintf(status, "Seccomp"), "2"},
		{"memory limit", "cat /sys/fs/cgroup/memory.max", "67108864"},
		{"CPU limit", "cat /sys/fs/cgroup/cpu.max", "50000 100000"},
		{"pids limit", "cat /sys/fs/cgroup/pids.max", "77"},
	})
}

func TestSpecOfTheContainer(t *testing.T) {
	mode, uid := os.FileMode(0o666), uint32(5)
	spec := bundle.Spec()
	spec.Root.Readonly = true
	spec.Process.Capabilities.Effective = []string{"CAP_KILL", "CAP_MKNOD"}
	spec.Process.Capabilities.Permitted = []string{"CAP_KILL", "CAP_MKNOD"}
	spec.Process.Capabilities.Bounding = []string{"CAP_KILL", "CAP_MKNOD"}
	spec.Linux.Sysctl = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "81"}
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &uid}}
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices,
		specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(5)), Access: "r"})
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "size=1m"},
	})
	const status = `awk '/^%s:/ {print $2}' /proc/self/status`
	checkFacts(t, spec, []fact{
		{"read-only root", "touch /new || echo refused", "touch: /new: Read-only file system refused"},
		{"capabilities", fmt.Sprintf(status, "CapEff") + ";" + fmt.Sprintf(status, "CapBnd"), "0000000008000020 0000000008000020"},
		{"process 1 is the container's", "head -c 7 /proc/1/cmdline", "/bin/sh"},
		{"masked path", "ls /sys/firmware | wc -l", "0"},
		{"read-only path", "touch /proc/sys/kernel/domainname 2>/dev/null || echo refused", "refused"},
		{"sysctl of IPC", "cat /proc/sys/kernel/shm_rmid_forced", "1"},
		{"sysctl of network", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "81"},
		{"device with a rule", "head -c 4 /dev/mine | wc -c; stat -c '%t:%T %u' /dev/mine", "4 1:5 5"},
		{"device without a rule", "mknod /dev/denied c 1 11; cat /dev/denied", "cat: can't open '/dev/denied': Operation not permitted"},
		{"tmpfs", `awk '$2 == "/tmp" {print $3}' /proc/mounts; df -m /tmp | awk 'NR == 2 {print $2}'`, "tmpfs 1"},
		{"mount options", `awk '$2 == "/tmp" {print $4}' /proc/mounts | tr , '\n' | grep -c -e nosuid -e noexec`, "2"},
		{"loopback", "ip -o link show lo | grep -c UP; ip -o addr show lo | grep -c 127.0.0.1", "1 1"},
		{"no other link", "ls /sys/class/net", "lo"},
		{"standard devices", "ls /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx | wc -l", "7"},
		{"cgroup namespace", "cat /proc/self/cgroup", "0::/"},
		{"new cgroup is refused", "mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused", "refused"},
	})
}

func TestSpecOfAUserNamespace(t *testing.T) {
	spec := bundle.Spec()
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 1000}, {ContainerID: 1000, HostID: 1000, Size: 64536}}
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = mapping, mapping
	checkFacts(t, spec, []fact{
		{"mapping", "awk '{print $1, $2, $3}' /proc/self/uid_map", "0 0 1000 1000 1000 64536"},
		{"user", "id -u", "0"},
		{"own user namespace", `[ "$(readlink /proc/1/ns/user)" != user:[4026531837] ] && echo own`, "own"},
	})
}

func ptr[T any](v T) *T { return &v }
