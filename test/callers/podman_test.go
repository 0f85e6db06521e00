//go:build vm

package callers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/test/harness"
)

// image is the test's image in podman's storage.
const image = "localhost/busybox"

// podmanRun is in the test program's own /run: podman refuses long paths.
const podmanRun = "/run/podman"

// fullVariable makes the loop long.
const fullVariable = "KATA_TEST_FULL"

// newPodman makes a podman of the test's own, with the image in its storage.
func newPodman(t *testing.T) *caller {
	t.Helper()
	return newPodmanWith(t, "cni")
}

// newPodmanWith is newPodman with one of podman's network backends, cni or
// netavark.
func newPodmanWith(t *testing.T, backend string) *caller {
	t.Helper()
	requirePrograms(t, "podman", "conmon", "runc")
	h := harness.New(t)
	dir := h.File("podman")
	config := h.File("containers.conf")
	// The cgroup's name is one that no other test on this machine has.
	manager, cgroup := "cgroupfs", "kata-test-"+h.ID()
	if harness.OnSystemd() {
		manager = "systemd"
		cgroup = systemdSlice(h)
	}
	text := fmt.Sprintf("[containers]\nlog_driver = \"k8s-file\"\n[engine]\nevents_logger = \"file\"\ncgroup_manager = %q\n"+
		"[network]\nnetwork_backend = %q\ncni_plugin_dirs = [\"/usr/lib/cni\"]\nnetwork_config_dir = %q\n", manager, backend, filepath.Join(dir, "net"))
	if err := os.Mkdir(podmanRun, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &caller{
		t: t, h: h,
		command: []string{
			"podman", "--root", filepath.Join(dir, "root"), "--runroot", podmanRun + "/root",
			"--tmpdir", podmanRun + "/tmp", "--storage-driver", storageDriver(t, h.Temp),
			"--cgroup-manager", manager, "--runtime", runtimePath(t),
		},
		env: []string{
			"CONTAINERS_CONF=" + config, "HOME=" + h.File("home"), "TMPDIR=" + h.Temp,
			"XDG_RUNTIME_DIR=" + podmanRun,
			cgroupVariable + "=" + parentOf(cgroup),
		},
	}
	t.Cleanup(func() {
		p.cleanup("rm", "--all", "--force", "--time", "0")
		// conmon ends after its container, and is no child of podman's.
		for _, process := range h.Processes() {
			h.WaitExit(process.PID)
		}
		// podman itself leaves a pod's on hierarchies that it does not know.
		if !harness.OnSystemd() {
			removeCgroups(t, cgroup, "conmon", strings.Repeat("[0-9a-f]", 64))
		}
		unmountBelow(t, dir)
		unmountBelow(t, podmanRun)
		// podman mounts the directory of namespaces on itself.
		if err := unix.Unmount("/run/netns", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Error(err)
		}
		// Where podman is called without the runtime's flags.
		if left, err := os.ReadDir("/run/kata-runtime"); err == nil {
			for _, entry := range left {
				if entry.IsDir() {
					t.Errorf("left behind in the state directory: %s", entry.Name())
				}
			}
		}
		removeOwn(t, podmanRun, "/run/kata-runtime", "/run/containers", "/run/libpod", "/run/lock", "/run/netns", "/dev/shm/libpod_lock")
	})
	p.must("import", layer(h), image)
	return p
}

// systemdSlice names a slice of the test's own, and stops it after the test.
func systemdSlice(h *harness.Host) string {
	h.T.Helper()
	slice := "katatest" + h.ID() + ".slice"
	h.T.Cleanup(func() {
		ctx := context.WithoutCancel(h.T.Context())
		if output, err := exec.CommandContext(ctx, "systemctl", "stop", slice).CombinedOutput(); err != nil {
			h.T.Errorf("stop %s: %v: %s", slice, err, output)
		}
	})
	return slice
}

// parentOf is the group as --cgroup-parent wants it: a slice by its name, or
// another one by its path.
func parentOf(cgroup string) string {
	if harness.OnSystemd() {
		return cgroup
	}
	return "/" + cgroup
}

// cgroupVariable carries the cgroup's name to containerFlags.
const cgroupVariable = "KATA_TEST_CGROUP"

// container returns a podman command that makes a container: the subcommand
// with the flags that each container of the test has, and more arguments.
func (c *caller) container(subcommand string, args ...string) []string {
	return c.networked(subcommand, append([]string{"--network", "none"}, args...)...)
}

// networked is container with podman's own choice of a network.
func (c *caller) networked(subcommand string, args ...string) []string {
	parent := strings.TrimPrefix(c.env[len(c.env)-1], cgroupVariable+"=")
	return append([]string{subcommand, "--cgroup-parent", parent}, args...)
}

// storageDriver is overlay where the directory's file system can carry it.
func storageDriver(t *testing.T, dir string) string {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "vfs"
	}
	return "overlay"
}

// removeOwn removes what managers leave in the test's own /run.
func removeOwn(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Errorf("clean up: %v", err)
		}
	}
}

// One container with most options has to do, since each is a machine that
// boots. The subtests build on each other.
func TestPodman(t *testing.T) {
	p := newPodman(t)
	volume := p.h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	seccomp := p.h.File("seccomp.json")
	profile := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`
	if err := os.WriteFile(seccomp, []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	const script = `trap 'echo told to end; exit 7' TERM; echo ready; echo complaint >&2; while :; do sleep 1000 & wait $!; done`
	id := p.must(p.container("run", "-d", "--name", "c", "--memory", "64m", "--pids-limit", "50", "--read-only",
		"--tmpfs", "/memory", "--cap-drop", "NET_RAW", "--security-opt", "seccomp="+seccomp,
		"--volume", volume+":/volume", "--volume", volume+":/fixed:ro",
		// Words of podman's own, which it hands on.
		"--volume", "copied:/usr:copy", "--volume", "empty:/home:nocopy", image, "sh", "-c", script)...)
	pid := p.must("inspect", "--format", "{{.State.Pid}}", "c")

	t.Run("inspect", func(t *testing.T) {
		p := p.in(t)
		p.want(0, "running 0 false\n", "", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.Paused}}", "c")
		p.want(0, id+"\n", "", "ps", "--no-trunc", "--quiet")
	})
	t.Run("limits and protections", func(t *testing.T) {
		p := p.in(t)
		facts := []struct{ command, want string }{
			{"cat /sys/fs/cgroup/memory.max", "67108864"},
			{"cat /sys/fs/cgroup/pids.max", "50"},
			{"cat /proc/self/cgroup", "0::/"},
			{"echo no > /file || echo refused", "refused"},
			{"echo yes > /memory/file; cat /memory/file", "yes"},
			{"echo no > /fixed/file || echo refused", "refused"},
			{"mkdir /memory/dir || echo refused", "refused"},
			{"cat /proc/sys/kernel/hostname", id[:12]},
			{"ls /usr /home", "/home:\n\n/usr:\nbin"},
			{"echo out of the container > /volume/file; echo done", "done"},
			// Bit 13 of the capabilities is CAP_NET_RAW, bit 0 is CAP_CHOWN.
			{"c=0x$(grep CapBnd /proc/self/status | cut -f2); echo $((c >> 13 & 1)) $((c & 1))", "0 1"},
		}
		var commands, want strings.Builder
		for _, fact := range facts {
			fmt.Fprintf(&commands, "(%s) 2>/dev/null\n", fact.command)
			fmt.Fprintln(&want, fact.want)
		}
		p.want(0, want.String(), "", "exec", "c", "sh", "-c", commands.String())
		if data, err := os.ReadFile(filepath.Join(volume, "file")); err != nil || string(data) != "out of the container\n" {
			t.Errorf("the host reads %q, %v", data, err)
		}
	})
	t.Run("exec", func(t *testing.T) {
		p := p.in(t)
		p.want(5, "out\n", "err\n", "exec", "c", "sh", "-c", "echo out; echo err >&2; exit 5")
		p.want(137, "", "", "exec", "c", "sh", "-c", "kill -9 $$")
		p.want(127, "", "~no such file or directory", "exec", "c", "/nonexistent")
		p.want(126, "", "~permission denied", "exec", "c", "/etc/passwd")
		p.want(0, "1000 /tmp value\n", "", "exec", "--user", "1000", "--workdir", "/tmp", "--env", "KEY=value", "c",
			"sh", "-c", "echo $(id -u) $PWD $KEY")
		input := strings.Repeat("0123456789abcdef\n", 1<<16)
		if result := p.run(input, "exec", "-i", "c", "cat"); result.Code != 0 || result.Stdout != input {
			t.Errorf("%d bytes went in and %d came out, or others: %s", len(input), len(result.Stdout), result.Stderr)
		}
	})
	t.Run("exec on a terminal", func(t *testing.T) { p.in(t).terminal("exec", "-it", "c", "sh") })
	t.Run("top", func(t *testing.T) {
		p := p.in(t)
		// With its own descriptors podman looks at the host, where the
		// stand-in is; with ps(1)'s options it asks in the container.
		p.want(0, "~kata-runtime stand-in "+id, "", "top", "c", "pid", "args")
		p.want(0, "~sleep 1000", "", "top", "c", "-o", "pid,args")
	})
	t.Run("stats", func(t *testing.T) {
		p := p.in(t)
		p.want(0, "~/ 67.11MB", "", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", "c")
	})
	t.Run("cp", func(t *testing.T) { testCopy(p.in(t), pid) })
	t.Run("pause", func(t *testing.T) {
		p := p.in(t)
		p.must("pause", "c")
		p.want(0, "paused\n", "", "inspect", "--format", "{{.State.Status}}", "c")
		p.want(255, "", "~can only create exec sessions on running containers", "exec", "c", "true")
		p.must("unpause", "c")
		p.want(0, "on\n", "", "exec", "c", "echo", "on")
	})
	t.Run("stop", func(t *testing.T) {
		p := p.in(t)
		p.must("stop", "--time", "60", "c")
		p.want(0, "exited 7\n", "", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "c")
		p.want(0, "ready\ntold to end\n", "complaint\n", "logs", "c")
		p.want(0, "7\n", "", "wait", "c")
	})
	t.Run("start again and kill", func(t *testing.T) {
		p := p.in(t)
		p.must("start", "c")
		p.must("kill", "c")
		p.want(0, "137\n", "", "wait", "c")
		p.must("rm", "c")
		p.want(0, "", "", "ps", "--all", "--quiet")
	})
}

// privilegedScript prints what a privileged container has of the host and of the
// guest: its capabilities, nodes of devices, and what it may do.
const privilegedScript = `
grep CapEff /proc/self/status
for d in null kmsg net/tun loop-control autofs tty0; do test -c /dev/$d && echo $d; done
for d in /dev/*; do test -b $d && test ${d#/dev/loop} = $d && echo disk $d; done
dd if=/dev/zero of=/tmp/disk bs=1k count=512 2>/dev/null && mke2fs -F /tmp/disk >/dev/null && mkdir /loop && mount -o loop /tmp/disk /loop && umount /loop && echo loop
mkdir /mine && mount -t tmpfs none /mine && echo mounted
echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward
uname -n`

// The host's devices mean nothing in the guest, and its disks must not be there.
func TestPodmanPrivileged(t *testing.T) {
	p := newPodman(t)
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	p.want(0, "CapEff:\t"+capabilities(t)+"\nnull\nkmsg\nnet/tun\nloop-control\nloop\nmounted\n1\n"+hostname+"\n", "",
		p.container("run", "--rm", "--privileged", "--uts", "host", image, "sh", "-c", privilegedScript)...)
	p.want(126, "", "~character device 10:235 is not supported", p.container("run", "--rm", "--device", "/dev/autofs", image, "true")...)
}

// capabilities are those that managers on this host can give: none that they
// lack themselves.
func capabilities(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapBnd:\t")
	set, _, _ := strings.Cut(rest, "\n")
	return set
}

// testCopy copies to and from the running container. podman enters the
// stand-in's mount namespace for that, and must find the container's files
// there and none of the host's.
func testCopy(p *caller, pid string) {
	t := p.t
	source, target := p.h.File("source"), p.h.File("target")
	if err := os.WriteFile(source, []byte("copied\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.must("cp", source, "c:/volume/copy")
	p.want(0, "copied\n", "", "exec", "c", "cat", "/volume/copy")
	p.must("cp", "c:/volume/copy", target)
	if data, err := os.ReadFile(target); err != nil || string(data) != "copied\n" {
		t.Errorf("copied back: %q, %v", data, err)
	}
	// The container's links are the container's: these lead nowhere in it, and
	// to files of the host's outside.
	outside := p.h.File("outside")
	if err := os.WriteFile(outside, []byte("the host's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	corePattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	links := map[string]string{
		"absolute": outside, "relative": "../../../../../../.." + outside, "proc": "/proc/sys/kernel/core_pattern",
		"root": "/proc/" + pid + "/root" + outside,
	}
	var commands strings.Builder
	for name, link := range links {
		fmt.Fprintf(&commands, "ln -s %s /volume/%s || exit 1\n", link, name)
	}
	p.must("exec", "c", "sh", "-c", commands.String())
	for name, link := range links {
		p.run("", "cp", source, "c:/volume/"+name) // may fail, and may do no harm
		if result := p.run("", "cp", "c:/volume/"+name, p.h.File("stolen")); result.Code == 0 {
			if data, err := os.ReadFile(p.h.File("stolen")); err == nil && strings.Contains(string(data), "the host's") {
				t.Errorf("link %s to %s was followed to the host", name, link)
			}
		}
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != "the host's\n" {
		t.Errorf("a file of the host became %q, %v", data, err)
	}
	if data, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || string(data) != string(corePattern) {
		t.Errorf("the host's core_pattern became %q, %v", data, err)
	}
	// What could not reach the container must not seem to.
	for _, destination := range []string{"/memory/copy", "/root/copy", "/fixed/copy"} {
		p.want(125, "", "~read-only file system", "cp", source, "c:"+destination)
	}
}

func TestPodmanRunOnATerminal(t *testing.T) {
	p := newPodman(t)
	p.terminal(p.container("run", "-it", "--rm", image, "sh")...)
}

// Each container has streams and an exit code of its own, and leaves nothing.
func TestPodmanLoop(t *testing.T) {
	p := newPodman(t)
	count := 3
	if os.Getenv(fullVariable) != "" {
		count = 50
	}
	for i := range count {
		input := fmt.Sprintf("input %d\n", i)
		result := p.run(input, p.container("run", "-i", "--rm", image, "sh", "-c", fmt.Sprintf("cat; echo complaint >&2; exit %d", i))...)
		if result.Code != i || result.Stdout != input || result.Stderr != "complaint\n" {
			t.Fatalf("container %d: %+v", i, result)
		}
	}
	p.want(127, "", "~no such file or directory", p.container("run", "--rm", image, "/nonexistent")...)
}

// The containers of a pod are in one machine and share what pods share.
func TestPodmanPod(t *testing.T) {
	p := newPodman(t)
	parent := strings.TrimPrefix(p.env[len(p.env)-1], cgroupVariable+"=")
	t.Cleanup(func() { p.cleanup("pod", "rm", "--all", "--force", "--time", "0") })
	p.must("pod", "create", "--name", "pod", "--hostname", "together", "--network", "none", "--cgroup-parent", parent,
		"--infra-image", image, "--infra-command", "/bin/sleep 1000000")
	const wait = "trap 'exit 4' TERM; while :; do sleep 1000 & wait $!; done"
	p.must("run", "-d", "--pod", "pod", "--name", "first", image, "sh", "-c", wait)
	// The same machine, the same name and namespaces; processes of its own.
	const look = "cat /proc/sys/kernel/random/boot_id; hostname; for n in net ipc uts; do readlink /proc/self/ns/$n; done"
	first := p.must("exec", "first", "sh", "-c", look)
	if second := p.must("run", "--rm", "--pod", "pod", image, "sh", "-c", look); second != first {
		t.Errorf("the second container says %q, the first %q", second, first)
	}
	if !strings.Contains(first, "\ntogether\n") {
		t.Errorf("the first container says %q: not the pod's name", first)
	}
	p.want(0, "1\n", "", "run", "--rm", "--pod", "pod", image, "sh", "-c", "echo $$")
	p.must("pod", "pause", "pod")
	p.must("pod", "unpause", "pod")
	p.must("stop", "--time", "60", "first")
	p.want(0, "exited 4\n", "", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "first")
	p.must("pod", "rm", "--force", "--time", "0", "pod")
	p.want(0, "", "", "ps", "--all", "--quiet")
}
