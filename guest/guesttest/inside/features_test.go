//go:build inguest

package inside

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

func ptr[T any](value T) *T { return &value }

// TestSpecFields runs one container per field of the specification and compares
// what its program prints.
func TestSpecFields(t *testing.T) {
	a := startAgent(t)
	for name, test := range map[string]struct {
		change func(t *testing.T, s *specs.Spec)
		script string
		want   string // the whole output, trimmed
		code   uint32
	}{
		"hostname":      {func(*testing.T, *specs.Spec) {}, "hostname", "inside", 0},
		"domainname":    {func(_ *testing.T, s *specs.Spec) { s.Domainname = "example" }, "cat /proc/sys/kernel/domainname", "example", 0},
		"pid namespace": {func(*testing.T, *specs.Spec) {}, "echo $$", "1", 0},
		"user": {func(_ *testing.T, s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}, Umask: ptr(uint32(0o27))}
		}, "id -u; id -g; id -G; umask", "1000\n1001\n1001 5 6\n0027", 0},
		"stdout can be opened again": {func(_ *testing.T, s *specs.Spec) { s.Process.User.UID = 1000 }, "echo again > /dev/stdout", "again", 0},
		"cwd is made":                {func(_ *testing.T, s *specs.Spec) { s.Process.Cwd = "/new/dir" }, "pwd", "/new/dir", 0},
		"environment":                {func(_ *testing.T, s *specs.Spec) { s.Process.Env = append(s.Process.Env, "A=b c") }, "echo $A", "b c", 0},
		"rlimits": {func(_ *testing.T, s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 4096, Hard: 1 << 20}}
		}, "ulimit -n; ulimit -Hn", "4096\n1048576", 0},
		"default rlimits":              {func(*testing.T, *specs.Spec) {}, "ulimit -n; ulimit -Hn", "1024\n1048576", 0},
		"oom score":                    {func(_ *testing.T, s *specs.Spec) { s.Process.OOMScoreAdj = ptr(-500) }, "cat /proc/self/oom_score_adj", "-500", 0},
		"oom score is not the agent's": {func(*testing.T, *specs.Spec) {}, "cat /proc/self/oom_score_adj", "0", 0},
		"read-only root":               {func(_ *testing.T, s *specs.Spec) { s.Root.Readonly = true }, "touch /x 2>&1; echo $?", "touch: /x: Read-only file system\n1", 0},
		"masked paths":                 {func(*testing.T, *specs.Spec) {}, "head -c 1 /proc/keys | wc -c", "0", 0},
		"read-only paths":              {func(*testing.T, *specs.Spec) {}, "echo 1 > /proc/sys/vm/drop_caches", "", 1},
		"capabilities": {func(_ *testing.T, s *specs.Spec) {
			caps := []string{"CAP_CHOWN"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		}, "grep CapEff /proc/self/status | cut -f2", "0000000000000001", 0},
		"no new privileges": {func(_ *testing.T, s *specs.Spec) { s.Process.NoNewPrivileges = true }, "grep NoNewPrivs /proc/self/status | cut -f2", "1", 0},
		"seccomp": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.EDQUOT))},
			}}
		}, "mkdir /tmp/x 2>&1", "mkdir: can't create directory '/tmp/x': Disk quota exceeded", 1},
		"sysctl of the pod": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shmmax": "123456"}
		}, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax", "81\n123456", 0},
		"tmpfs options": {func(_ *testing.T, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=4m", "mode=1777", "noexec"}})
		}, "grep -o '/scratch tmpfs [a-z,]*noexec.*size=[0-9]*k' /proc/mounts | sed 's/.*size/size/'", "size=4096k", 0},
		"bind mounts recursively read-only": {func(t *testing.T, s *specs.Spec) {
			source := t.TempDir()
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/made/by/runtime", Type: "bind", Source: source, Options: []string{"rbind", "rro"}})
		}, "touch /made/by/runtime/x 2>&1", "touch: /made/by/runtime/x: Read-only file system", 1},
		"devices": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5, FileMode: ptr(os.FileMode(0o640)), GID: ptr(uint32(7))}}
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}, {Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(5)), Access: "r"}}}
		}, "stat -c '%F %a %g %t:%T' /dev/mine; head -c 2 /dev/mine | wc -c; ls /dev/null", "character special file 640 7 1:5\n2\n/dev/null", 0},
		"device rules": {func(_ *testing.T, s *specs.Spec) {
			s.Process.Capabilities.Bounding = append(slices.Clone(s.Process.Capabilities.Bounding), "CAP_MKNOD")
			s.Process.Capabilities.Permitted, s.Process.Capabilities.Effective = s.Process.Capabilities.Bounding, s.Process.Capabilities.Bounding
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
		}, "mknod -m 666 /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg 2>&1", "head: /tmp/kmsg: Permission denied", 1},
		"memory limit": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20))}}
		}, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.low", "67108864\n33554432", 0},
		"cpu limit": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "7", Mems: "1"}}
		}, "cat /sys/fs/cgroup/cpu.max", "50000 100000", 0},
		"pids limit": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(50))}}
		}, "cat /sys/fs/cgroup/pids.max", "50", 0},
		"unified": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"memory.high": "50331648"}}
		}, "cat /sys/fs/cgroup/memory.high", "50331648", 0},
		"cgroup is a namespace's root": {func(*testing.T, *specs.Spec) {}, "cat /proc/self/cgroup", "0::/", 0},
		"security labels are ignored": {func(_ *testing.T, s *specs.Spec) {
			s.Process.ApparmorProfile, s.Process.SelinuxLabel, s.Linux.MountLabel = "docker-default", "system_u:object_r:x:s0", "system_u:object_r:y:s0"
		}, "echo ok", "ok", 0},
		"start hook runs in the container": {func(_ *testing.T, s *specs.Spec) {
			s.Hooks = &specs.Hooks{
				CreateRuntime:  []specs.Hook{{Path: "/nowhere"}},
				StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "hostname > /hooked"}, Env: []string{"PATH=/bin"}}},
			}
		}, "cat /hooked", "inside", 0},
		"start hook as the container's user in its user namespace": {func(t *testing.T, s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1000}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
			for _, dir := range []string{s.Root.Path, filepath.Dir(s.Root.Path), filepath.Dir(filepath.Dir(s.Root.Path))} {
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			s.Hooks = &specs.Hooks{
				StartContainer: []specs.Hook{{Path: "/bin/busybox", Args: []string{"sh", "-c", "id -u > /dev/shm/uid"}, Env: []string{"PATH=/bin"}}},
			}
		}, "cat /dev/shm/uid", "1000", 0},
		"user namespace": {func(t *testing.T, s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
			for _, dir := range []string{s.Root.Path, filepath.Dir(s.Root.Path), filepath.Dir(filepath.Dir(s.Root.Path))} {
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}, "id -u; tr -s ' ' < /proc/self/uid_map; ls -d /sys/class; echo again > /dev/stdout", "0\n 0 100000 65536\n/sys/class\nagain", 0},
		"personality": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		}, "uname -m", "i686", 0},
		"time namespace": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}}
		}, "test $(cut -d. -f1 /proc/uptime) -gt 999999 && echo later", "later", 0},
		"scheduler": {func(_ *testing.T, s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
		}, "cut -d' ' -f19,41 /proc/self/stat", "5 3", 0},
		"io priority": {func(_ *testing.T, s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}, "ionice -p $$", "best-effort: prio 6", 0},
		"host pid, ipc and uts": {func(_ *testing.T, s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
			s.Hostname = ""
		}, "tr '\\0' ' ' < /proc/1/cmdline | cut -d' ' -f1", "/init", 0},
	} {
		t.Run(name, func(t *testing.T) {
			spec := newSpec(t, "sh", "-c", test.script)
			test.change(t, spec)
			exit, s := a.run("field", spec)
			if got := strings.TrimRight(s.stdout.String(), "\n "); got != test.want || exit.GetExitCode() != test.code {
				t.Errorf("printed %q, exit %d, stderr %q; want %q, %d", got, exit.GetExitCode(), s.stderr.String(), test.want, test.code)
			}
		})
	}
	assertNothingLeft(t)
}

// assertNothingLeft fails when a removed container left a cgroup or a mount.
func assertNothingLeft(t *testing.T) {
	t.Helper()
	groups, err := filepath.Glob("/sys/fs/cgroup/kata/*/")
	if err != nil || len(groups) > 0 {
		t.Errorf("cgroups left: %q, %v", groups, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), "rootfs") {
		t.Errorf("mounts left:\n%s", mounts)
	}
}

func TestLackOfMemory(t *testing.T) {
	a := startAgent(t)
	spec := newSpec(t, "sh", "-c", "head -c 200m /dev/zero | tail")
	spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(24 << 20)), Swap: ptr(int64(24 << 20))}}
	if _, err := a.create("hungry", spec, false); err != nil {
		t.Fatal(err)
	}
	a.start("hungry")
	event, err := a.client.NextOOM(t.Context(), &protocol.Empty{})
	if err != nil || event.GetContainerId() != "hungry" {
		t.Fatalf("event %v, %v", event, err)
	}
	// The event was counted before the end was told. The kernel may kill more than
	// the one that has the memory, until that has gone.
	if exit := a.wait("hungry", ""); !exit.GetOomKilled() || exit.GetExitCode() != 137 || exit.GetOomEvents() < 1 {
		t.Fatalf("exit %v", exit)
	}
	a.remove("hungry")
	assertNothingLeft(t)
}

func TestLifeOfAContainer(t *testing.T) {
	a := startAgent(t)
	ctx := t.Context()
	request := &protocol.ContainerRequest{ContainerId: "long"}
	stdout := a.open(protocol.StreamHeader{Container: "long", Stream: protocol.Stdout})
	document, err := json.Marshal(newSpec(t, "sh", "-c", "echo up; while :; do sleep 1000; done"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.client.CreateContainer(ctx, &protocol.CreateContainerRequest{ContainerId: "long", SpecJson: document, Stdout: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.create("long", newSpec(t, "true"), false); err == nil || !strings.Contains(err.Error(), "AlreadyExists") {
		t.Errorf("a second container of that name: %v", err)
	}
	a.start("long")
	if _, err := io.ReadFull(stdout, make([]byte, len("up\n"))); err != nil {
		t.Fatal(err)
	}

	list, err := a.client.ListProcesses(ctx, request)
	if err != nil || len(list.GetProcesses()) == 0 || list.GetProcesses()[0].GetCommand() != "sh -c echo up; while :; do sleep 1000; done" {
		t.Errorf("processes %v, %v", list, err)
	}
	response, err := a.client.StatsContainer(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	var stats struct {
		Pids   struct{ Current uint64 }
		Memory struct{ Usage struct{ Usage uint64 } }
	}
	if err := json.Unmarshal(response.GetStatsJson(), &stats); err != nil || stats.Pids.Current == 0 || stats.Memory.Usage.Usage == 0 {
		t.Errorf("statistics %s, %v", response.GetStatsJson(), err)
	}

	for _, step := range []struct {
		call func() error
		want string
	}{
		{func() error { _, err := a.client.PauseContainer(ctx, request); return err }, "1"},
		{func() error { _, err := a.client.ResumeContainer(ctx, request); return err }, "0"},
	} {
		if err := step.call(); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile("/sys/fs/cgroup/kata/long/cgroup.freeze"); err != nil || strings.TrimSpace(string(got)) != step.want {
			t.Errorf("frozen %q, %v; want %s", got, err, step.want)
		}
		_, err := a.client.ExecProcess(ctx, &protocol.ExecProcessRequest{ContainerId: "long", ProcessId: "p" + step.want, ProcessJson: []byte(`{"args":["true"],"cwd":"/","env":["PATH=/bin"]}`)})
		if refused := err != nil && strings.Contains(err.Error(), "paused"); refused != (step.want == "1") {
			t.Errorf("exec while frozen is %s: %v", step.want, err)
		}
	}

	update := &protocol.UpdateContainerRequest{ContainerId: "long", ResourcesJson: []byte(`{"pids":{"limit":77},"memory":{"limit":50331648},"cpu":{"shares":512}}`)}
	if _, err := a.client.UpdateContainer(ctx, update); err != nil {
		t.Error(err)
	}
	for file, want := range map[string]string{"pids.max": "77", "memory.max": "50331648"} {
		if got, err := os.ReadFile("/sys/fs/cgroup/kata/long/" + file); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v; want %s", file, got, err, want)
		}
	}

	if code, out := a.exec("long", "e1", false, "sh", "-c", "echo from exec; exit 3"); code != 3 || out != "from exec\n" {
		t.Errorf("exec: exit %d, output %q", code, out)
	}
	if code, out := a.exec("long", "e2", true, "sh", "-c", "tty; stty size"); code != 0 || out != "/dev/pts/0\r\n24 80\r\n" {
		t.Errorf("exec with a terminal: exit %d, output %q", code, out)
	}
	if code, out := a.exec("long", "e3", false, "sh", "-c", "sleep 500 & echo done"); code != 0 || out != "done\n" {
		t.Errorf("exec that leaves a process: exit %d, output %q", code, out)
	}
	_, err = a.client.ExecProcess(ctx, &protocol.ExecProcessRequest{ContainerId: "long", ProcessId: "e4", ProcessJson: []byte(`{"args":["nope"],"cwd":"/","env":["PATH=/bin"]}`)})
	if err == nil || !strings.Contains(err.Error(), "executable file not found in $PATH") {
		t.Errorf("exec of nothing: %v", err)
	}

	if _, err := a.client.SignalProcess(ctx, &protocol.SignalProcessRequest{ContainerId: "long", Signal: uint32(unix.SIGTERM), All: true}); err != nil {
		t.Error(err)
	}
	if _, err := a.client.SignalProcess(ctx, &protocol.SignalProcessRequest{ContainerId: "long", Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Error(err)
	}
	if exit := a.wait("long", ""); exit.GetSignal() != uint32(unix.SIGKILL) {
		t.Errorf("exit %v", exit)
	}
	if _, err := a.client.SignalProcess(ctx, &protocol.SignalProcessRequest{ContainerId: "long", Signal: uint32(unix.SIGKILL)}); err == nil || !strings.Contains(err.Error(), "container not running") {
		t.Errorf("signal after the end: %v", err)
	}
	a.remove("long")
	if _, err := a.client.StartContainer(ctx, request); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("start after removal: %v", err)
	}
	assertNothingLeft(t)
}

// exec runs a process in a container to its end.
func (a *agent) exec(container, name string, terminal bool, args ...string) (uint32, string) {
	a.t.Helper()
	document, err := json.Marshal(&specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, Terminal: terminal, ConsoleSize: &specs.Box{Height: 24, Width: 80},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	s := a.connect(container, name, false, terminal)
	_, err = a.client.ExecProcess(a.t.Context(), &protocol.ExecProcessRequest{
		ContainerId: container, ProcessId: name, ProcessJson: document, Stdout: true, Stderr: !terminal,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	exit := a.wait(container, name)
	s.readers.Wait()
	return exit.GetExitCode(), s.stdout.String()
}

func TestTerminal(t *testing.T) {
	a := startAgent(t)
	spec := newSpec(t, "sh", "-c", "read line; echo got $line; stty size; test -t 2 && ls -l /dev/console | cut -c1")
	spec.Process.Terminal = true
	s, err := a.create("tty", spec, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.client.ResizeTerminal(t.Context(), &protocol.ResizeTerminalRequest{ContainerId: "tty", Rows: 33, Columns: 99}); err != nil {
		t.Fatal(err)
	}
	a.start("tty")
	if _, err := fmt.Fprint(s.stdin, "typed\n"); err != nil {
		t.Fatal(err)
	}
	if exit := a.wait("tty", ""); exit.GetExitCode() != 0 {
		t.Errorf("exit %v", exit)
	}
	s.readers.Wait()
	if got, want := s.stdout.String(), "typed\r\ngot typed\r\n33 99\r\nc\r\n"; got != want {
		t.Errorf("terminal showed %q, want %q", got, want)
	}
	a.remove("tty")
}

// TestLastWordsOnATerminal repeats what the kernel can lose: the output of a
// session's leader that exits at once.
func TestLastWordsOnATerminal(t *testing.T) {
	a := startAgent(t)
	if _, err := a.create("long", newSpec(t, "sleep", "1000"), false); err != nil {
		t.Fatal(err)
	}
	a.start("long")
	for i := range 20 {
		if code, out := a.exec("long", fmt.Sprint("e", i), true, "sh", "-c", "echo first; exec echo last words"); code != 0 || out != "first\r\nlast words\r\n" {
			t.Errorf("run %d: exit %d, output %q", i, code, out)
		}
	}
	a.remove("long")
}

func TestManyBytesFromATerminalAndAPipe(t *testing.T) {
	a := startAgent(t)
	for _, terminal := range []bool{false, true} {
		spec := newSpec(t, "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo END")
		spec.Process.Terminal = terminal
		_, s := a.run("bytes", spec)
		got := strings.TrimRight(s.stdout.String(), "\r\n")
		if len(got) != 3000003 || !strings.HasSuffix(got, "xEND") {
			t.Errorf("terminal %v: %d bytes, end %.20q", terminal, len(got), got[max(0, len(got)-20):])
		}
	}
}

func TestStorageAndAgentMemory(t *testing.T) {
	a := startAgent(t)
	document, err := json.Marshal(newSpec(t, "true"))
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "scratch")
	_, err = a.client.CreateContainer(t.Context(), &protocol.CreateContainerRequest{
		ContainerId: "stored", SpecJson: document,
		Storages: []*protocol.Storage{{Driver: "tmpfs", Options: []string{"size=1m"}, MountPoint: target}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Errorf("storage is %#x, %v", fs.Type, err)
	}
	a.remove("stored") // never started
	if _, err := os.Stat(target); err == nil {
		t.Error("the mount point is left")
	}
	hello, err := a.client.Hello(t.Context(), &protocol.HelloRequest{Version: protocol.Version})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("agent: %d KiB, kernel %s, controllers %q, seccomp %v", hello.GetAgentRssBytes()>>10, hello.GetKernelRelease(), hello.GetCgroupControllers(), hello.GetSeccomp())
}
