//go:build vm

package cri

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// containerd is a containerd of a major version: Debian's 1, or the pinned 2
// with a runc that has what this asks for.
type containerd int

func (c containerd) handlers() []string {
	handlers := []string{"runc", handler, shimHandler}
	if c == 2 {
		handlers = append(handlers, sandboxHandler)
	}
	return handlers
}

func (c containerd) socket() string { return "/run/containerd/containerd.sock" }

func (c containerd) programs(t testing.TB) []string {
	t.Helper()
	names := []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc"}
	if c == 2 {
		names = append(names, tool(t, "containerd", "containerd"))
	}
	return names
}

func (c containerd) settings(k *kubelet, networks string) string {
	settings := c.settings1(k, networks)
	if c == 2 {
		settings = c.settings2(k, networks)
	}
	return settings + c.handler(k)
}

// settings1 is the configuration of containerd 1, without the handler under
// test.
func (c containerd) settings1(k *kubelet, networks string) string {
	const cri = `plugins."io.containerd.grpc.v1.cri"`
	return `version = 2
root = "` + filepath.Join(k.dir, "root") + `"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.internal.v1.opt"]
  path = "` + filepath.Join(k.dir, "opt") + `"
[` + cri + `]
  sandbox_image = "` + image + `"
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  # The machine that runs the tests may lack the right to lower it.
  restrict_oom_score_adj = true
  [` + cri + `.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "` + networks + `"
  [` + cri + `.containerd]
    default_runtime_name = "runc"
    [` + cri + `.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
` + c.systemd(`plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc`)
}

// settings2 is that of containerd 2.
func (c containerd) settings2(k *kubelet, networks string) string {
	const cri = "plugins.'io.containerd.cri.v1.runtime'"
	return `version = 3
root = '` + filepath.Join(k.dir, "root") + `'
state = '/run/containerd'
# NRI listens in a directory of the host's.
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.snapshotter.v1.blockfile', 'io.containerd.snapshotter.v1.erofs']
[plugins.'io.containerd.internal.v1.opt']
  path = '` + filepath.Join(k.dir, "opt") + `'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '` + image + `'
[plugins.'io.containerd.grpc.v1.cri']
  disable_tcp_service = true
  stream_server_address = '127.0.0.1'
  stream_server_port = '0'
[` + cri + `]
  # The machine that runs the tests may lack the right to lower it.
  restrict_oom_score_adj = true
  [` + cri + `.cni]
    bin_dirs = ['/usr/lib/cni']
    conf_dir = '` + networks + `'
  [` + cri + `.containerd]
    default_runtime_name = 'runc'
    [` + cri + `.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'
` + c.systemd(`plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc`)
}

// handler is the configuration of the handler under test, as it is deployed.
func (c containerd) handler(k *kubelet) string {
	k.t.Helper()
	text := strings.NewReplacer("version = 2\n", "", "version = 3\n", "").Replace(k.deployed(fmt.Sprintf("containerd-%d.toml", c)))
	if harness.OnSystemd() {
		text += "    SystemdCgroup = true\n" // the last table is that of the options
	}
	return text + c.shim()
}

// shim is the configuration of the handlers that have a shim of their own: one
// whose pods have a sandbox container, and one whose pods have none.
func (c containerd) shim() string {
	if c == 1 {
		return c.shimTable(`plugins."io.containerd.grpc.v1.cri".containerd.runtimes.`+shimHandler, "")
	}
	const runtimes = `plugins."io.containerd.cri.v1.runtime".containerd.runtimes.`
	return c.shimTable(runtimes+shimHandler, "") +
		c.shimTable(runtimes+sandboxHandler, "  sandboxer = \"shim\"\n  disable_pause_image_pull = true\n")
}

func (c containerd) shimTable(table, more string) string {
	text := "[" + table + "]\n  runtime_type = \"io.containerd.kata.v2\"\n  pod_annotations = [\"io.katacontainers.*\"]\n" + more
	return text + c.systemd(table)
}

// systemd is what lets the control groups of a runtime, by its table, be systemd's.
func (c containerd) systemd(table string) string {
	if !harness.OnSystemd() {
		return ""
	}
	return "      [" + table + ".options]\n        SystemdCgroup = true\n"
}

func (c containerd) command(k *kubelet) *exec.Cmd {
	k.t.Helper()
	program, path := "containerd", os.Getenv("PATH")
	if c == 2 {
		program, path = tool(k.t, "containerd", program), tool(k.t, "containerd")+":"+path // with a shim of its own
	}
	command := exec.Command(program, "--config", k.config)
	command.Env = append(os.Environ(), "PATH="+filepath.Join(harness.Repository(k.t), "bin")+":"+path, "KATA_CONF_FILE="+k.runtimeConfig(),
		"KATA_SHIM_ROOT="+filepath.Join(k.dir, "shim"))
	return command
}

func (c containerd) serves(k *kubelet) { k.h.WaitText(k.log, "Start streaming server") }

func (c containerd) load(k *kubelet, layer string, command ...string) {
	k.t.Helper()
	archive := k.h.File("image.tar")
	k.must("make an image", bundle.Image(archive, image, layer, command...))
	k.call("ctr", "--namespace", "k8s.io", "images", "import", archive)
	// The CRI plugin hears of an imported image some time later, and knows
	// those that were there when it started.
	k.end()
	k.start()
}

func (c containerd) answers() answers { return answers{timeout: "DeadlineExceeded"} }

func (c containerd) ended(k *kubelet) {
	k.t.Helper()
	if left, err := os.ReadDir("/run/containerd/s"); err == nil && len(left) > 0 {
		k.t.Errorf("a shim is left: %v", left)
	}
	k.removeTree("/run/containerd")
	k.removeEmpty("/run/netns") // stays when the last namespace in it is gone
}
