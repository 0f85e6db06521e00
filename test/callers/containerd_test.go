//go:build vm

package callers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/test/harness"
)

// busybox is the test's image in containerd's storage.
const busybox = "docker.io/library/busybox:latest"

// newContainerd starts a containerd of the test's own and returns ctr, whose
// namespace no other test on this machine has: it is the cgroup's name too.
func newContainerd(t *testing.T, h *harness.Host) *caller {
	t.Helper()
	requirePrograms(t, "containerd", "containerd-shim-runc-v2", "ctr")
	namespace := "kata-test-" + h.ID()
	root, config := h.File("containerd"), h.File("containerd.toml")
	text := `version = 2
root = "` + root + `"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.internal.v1.opt"]
  path = "` + filepath.Join(root, "opt") + `"
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		removeCgroups(t, namespace)
		unmountBelow(t, root)
		if left, err := os.ReadDir("/run/containerd/s"); err == nil && len(left) > 0 {
			t.Errorf("a shim is left: %v", left)
		}
		removeOwn(t, "/run/containerd")
	})
	daemon(h, "containerd", "--config", config)
	return &caller{t: t, h: h, command: []string{"ctr", "--namespace", namespace}}
}

// ctrRun returns a ctr command that runs a container of this runtime.
func ctrRun(t *testing.T, args ...string) []string {
	return append([]string{"run", "--runtime", "io.containerd.runc.v2", "--runc-binary", runtimePath(t)}, args...)
}

func TestContainerd(t *testing.T) {
	h := harness.New(t)
	c := newContainerd(t, h)
	c.must("image", "import", ociArchive(h, layer(h), busybox))
	t.Cleanup(func() {
		if t.Failed() {
			c.run("", "task", "kill", "--all", "--signal", "KILL", "c")
		}
	})

	t.Run("run", func(t *testing.T) {
		c := c.in(t)
		c.want(4, "out\n", "err\n", ctrRun(t, "--rm", busybox, "once", "sh", "-c", "echo out; echo err >&2; exit 4")...)
		c.want(1, "", "~no such file or directory", ctrRun(t, "--rm", busybox, "never", "/nonexistent")...)
	})
	const script = `trap 'exit 5' TERM; trap 'echo here' USR1; while :; do sleep 1000 & wait $!; done`
	c.must(ctrRun(t, "--detach", "--memory-limit", "67108864", busybox, "c", "sh", "-c", script)...)
	t.Run("exec", func(t *testing.T) {
		c := c.in(t)
		c.want(0, "~RUNNING", "", "task", "ls")
		c.want(6, "out\n", "err\n", "task", "exec", "--exec-id", "e1", "c", "sh", "-c", "echo out; echo err >&2; exit 6")
		if result := c.run("input\n", "task", "exec", "--exec-id", "e2", "c", "cat"); result.Code != 0 || result.Stdout != "input\n" {
			t.Errorf("%+v", result)
		}
		c.want(1, "", "~no such file or directory", "task", "exec", "--exec-id", "e3", "c", "/nonexistent")
		c.terminal("task", "exec", "--tty", "--exec-id", "e4", "c", "sh")
	})
	t.Run("signal an exec", func(t *testing.T) {
		c := c.in(t)
		command := c.prepare("task", "exec", "--exec-id", "e5", "c", "sh", "-c", "echo ready; exec sleep 1000")
		stdout, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		c.h.Expect(stdout, "ready\n")
		c.must("task", "kill", "--exec-id", "e5", "--signal", "KILL", "c")
		c.h.ReadAll(stdout)
		if code := c.h.Wait(command); code != 137 {
			t.Errorf("exit code %d, want 137", code)
		}
	})
	t.Run("pause", func(t *testing.T) {
		c := c.in(t)
		c.must("task", "pause", "c")
		c.want(0, "~PAUSED", "", "task", "ls")
		c.must("task", "resume", "c")
		c.want(0, "~RUNNING", "", "task", "ls")
	})
	t.Run("processes and metrics", func(t *testing.T) {
		c := c.in(t)
		pid := ""
		for line := range strings.Lines(c.must("task", "ls")) {
			if fields := strings.Fields(line); fields[0] == "c" {
				pid = fields[1]
			}
		}
		c.want(0, "~"+pid, "", "task", "ps", "c")
		c.want(0, "~memory.usage_in_bytes", "", "task", "metrics", "c")
	})
	t.Run("signal and delete", func(t *testing.T) {
		c := c.in(t)
		waiting := c.prepare("task", "attach", "c")
		stdout, err := waiting.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := waiting.Start(); err != nil {
			t.Fatal(err)
		}
		c.must("task", "kill", "--signal", "USR1", "c")
		c.h.Expect(stdout, "here\n") // it is attached
		c.must("task", "kill", "--signal", "TERM", "c")
		if code := c.h.Wait(waiting); code != 5 {
			t.Errorf("exit code %d, want 5", code)
		}
		c.run("", "task", "delete", "c")
		c.must("container", "delete", "c")
		c.want(0, "", "", "container", "ls", "--quiet")
	})
}
