//go:build vm

package callers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"kata-runtime/test/harness"
)

// noNetworks keeps the daemon from making any.
func noNetworks() []string {
	return []string{"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"}
}

// newDocker starts a docker daemon of the test's own, on a containerd of the
// test's own, and returns docker's command line. flags are the daemon's.
func newDocker(t *testing.T, flags ...string) *caller {
	t.Helper()
	requirePrograms(t, "dockerd", "docker")
	h := harness.New(t)
	cgroup, root, config := "kata-test-"+h.ID(), h.File("docker"), h.File("daemon.json")
	text := fmt.Sprintf(`{"runtimes": {"kata": {"path": %q}}, "deprecated-key-path": %q}`, runtimePath(t), h.File("key.json"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	driver := storageDriver(t, h.Temp)
	if driver == "overlay" {
		driver = "overlay2" // docker's name
	}
	newContainerd(t, h)
	t.Cleanup(func() {
		removeCgroups(t, cgroup)
		unmountBelow(t, root)
		unmountBelow(t, "/run/docker")
		// It shares the runtime's state directory with other runtimes.
		for _, dir := range []string{"/run/docker/runtime-kata/moby", "/run/docker/runtime-runc/moby"} {
			if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
				t.Errorf("left behind in the state directory: %v", left)
			}
		}
		removeOwn(t, "/run/docker", "/run/docker.pid", "/run/docker.sock", "/run/xtables.lock")
	})
	daemon(h, "dockerd", append([]string{
		"--config-file", config, "--data-root", root, "--exec-root", "/run/docker",
		"--pidfile", "/run/docker.pid", "--host", "unix:///run/docker.sock", "--containerd", "/run/containerd/containerd.sock",
		"--userland-proxy=false", "--cgroup-parent", "/" + cgroup, "--storage-driver", driver,
	}, flags...)...)
	d := &caller{
		t: t, h: h, command: []string{"docker", "--host", "unix:///run/docker.sock"},
		env: []string{"HOME=" + h.File("home"), "DOCKER_CONFIG=" + h.File("client")},
	}
	d.must("import", layer(h), "busybox")
	return d
}

// One container with most options has to do, as in TestPodman.
func TestDocker(t *testing.T) {
	d := newDocker(t, noNetworks()...)
	volume := d.h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			d.cleanup("rm", "--force", "box")
		}
	})
	const script = `trap 'echo told to end; exit 7' TERM; echo ready; echo complaint >&2; while :; do sleep 1000 & wait $!; done`
	id := d.must("run", "--detach", "--runtime", "kata", "--name", "box", "--network", "none", "--memory", "64m",
		"--pids-limit", "50", "--read-only", "--tmpfs", "/memory", "--volume", volume+":/volume", "busybox", "sh", "-c", script)

	t.Run("exec", func(t *testing.T) {
		d := d.in(t)
		d.want(6, "67108864\n50\n"+id[:12]+"\n", "err\n", "exec", "box", "sh", "-c",
			"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; hostname; echo err >&2; echo text > /volume/file; exit 6")
		if data, err := os.ReadFile(filepath.Join(volume, "file")); err != nil || string(data) != "text\n" {
			t.Errorf("the host reads %q, %v", data, err)
		}
		if result := d.run("input\n", "exec", "-i", "box", "cat"); result.Code != 0 || result.Stdout != "input\n" {
			t.Errorf("%+v", result)
		}
		d.want(126, "~no such file or directory", "", "exec", "box", "/nonexistent")
		d.terminal("exec", "-it", "box", "sh")
	})
	t.Run("top", func(t *testing.T) {
		d.in(t).want(0, "~kata-runtime stand-in "+id, "", "top", "box")
	})
	t.Run("stats", func(t *testing.T) {
		d.in(t).want(0, "box\n", "", "stats", "--no-stream", "--format", "{{.Name}}", "box")
	})
	t.Run("cp", func(t *testing.T) {
		d := d.in(t)
		source, target := d.h.File("source"), d.h.File("target")
		if err := os.WriteFile(source, []byte("copied\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		d.must("cp", source, "box:/volume/copy")
		d.want(0, "copied\n", "", "exec", "box", "cat", "/volume/copy")
		d.must("cp", "box:/volume/copy", target)
		if data, err := os.ReadFile(target); err != nil || string(data) != "copied\n" {
			t.Errorf("copied back: %q, %v", data, err)
		}
	})
	t.Run("pause and update", func(t *testing.T) {
		d := d.in(t)
		d.must("pause", "box")
		d.want(0, "paused\n", "", "inspect", "--format", "{{.State.Status}}", "box")
		d.must("unpause", "box")
		d.want(0, "~box\n", "", "update", "--memory", "80m", "--memory-swap", "80m", "box")
		d.want(0, "83886080\n", "", "exec", "box", "cat", "/sys/fs/cgroup/memory.max")
	})
	t.Run("stop and remove", func(t *testing.T) {
		d := d.in(t)
		d.must("stop", "--time", "60", "box")
		d.want(0, "exited 7\n", "", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "box")
		d.want(0, "ready\ntold to end\n", "complaint\n", "logs", "box")
		d.must("rm", "box")
	})
	t.Run("run", func(t *testing.T) {
		d := d.in(t)
		result := d.run("input\n", "run", "-i", "--rm", "--runtime", "kata", "--network", "none", "busybox", "sh", "-c", "cat; exit 3")
		if result.Code != 3 || result.Stdout != "input\n" || result.Stderr != "" {
			t.Errorf("%+v", result)
		}
	})
	t.Run("privileged", func(t *testing.T) {
		d := d.in(t)
		result := d.run("", "run", "--rm", "--privileged", "--runtime", "kata", "--network", "none", "--hostname", "mine", "busybox",
			"sh", "-c", privilegedScript)
		// All 38 capabilities that docker 20.10 knows, also those that this host lacks.
		const want = "CapEff:\t0000003fffffffff\nnull\nkmsg\nnet/tun\nloop-control\nloop\nmounted\n1\nmine\n"
		if result.Code != 0 || result.Stdout != want {
			t.Errorf("%+v, want %q", result, want)
		}
	})
	t.Run("host network", func(t *testing.T) {
		d := d.in(t)
		// docker names the host's network by a path, and that of another container by its process.
		d.must("run", "--detach", "--runtime", "runc", "--name", "hosts", "--network", "host", "busybox", "sleep", "100000")
		for _, network := range []string{"host", "container:hosts"} {
			d.want(125, "", "~the host's network is refused", "run", "--name", "refused", "--runtime", "kata", "--network", network, "busybox", "true")
			d.must("rm", "refused")
		}
		d.must("rm", "--force", "hosts")
	})
}
