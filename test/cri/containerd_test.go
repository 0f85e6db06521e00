//go:build vm

package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/test/bundle"
	"kata-runtime/test/cri/client"
	"kata-runtime/test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// The names of what the test's containerd has.
const (
	image   = "localhost/busybox:test"
	socket  = "/run/containerd/containerd.sock"
	bridge  = "kata-test0"
	gateway = "10.88.7.1"
)

// kubelet is a containerd of the test's own and what kubelet does with one.
type kubelet struct {
	*client.Client
	*containerd
	t testing.TB
	h *harness.Host
}

// containerd is what the tests and subtests with one containerd share.
type containerd struct {
	major  int    // of its version
	dir    string // its own files
	config string
	parent string // the cgroup of all pods
	log    string
	daemon *exec.Cmd
}

// newKubelet starts Debian's containerd with the test's image, which ends after
// the test: when no pod is left, nothing else is.
func newKubelet(t testing.TB) *kubelet {
	t.Helper()
	return newKubeletOf(t, 1)
}

// newKubeletOf starts a containerd of a major version.
func newKubeletOf(t testing.TB, major int) *kubelet {
	t.Helper()
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "/usr/lib/cni/bridge"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v (make deps-test installs what the tests need)", err)
		}
	}
	h := harness.New(t)
	k := &kubelet{t: t, h: h, containerd: &containerd{
		major: major,
		dir:   h.File("containerd"), config: h.File("containerd.toml"), log: h.File("containerd.log"),
		parent: "/kata-test-" + h.ID(),
	}}
	if harness.OnSystemd() {
		k.parent = "katatest" + h.ID() + ".slice"
	}
	var err error
	if k.Client, err = client.New(socket); err != nil {
		t.Fatal(err)
	}
	// libcni caches its results there, whatever its configuration.
	k.mountEmpty("/var/lib/cni")
	t.Cleanup(k.cleanUp)
	k.configure()
	k.start()
	k.importImage()
	// The CRI plugin hears of an imported image some time later, and knows
	// those that were there when it started.
	k.end()
	k.start()
	return k
}

// in returns the kubelet for a subtest.
func (k *kubelet) in(t *testing.T) *kubelet {
	h := *k.h
	h.T = t
	in := *k
	in.t, in.h = t, &h
	return &in
}

// mountEmpty mounts an empty directory, in the test's mount namespace.
func (k *kubelet) mountEmpty(dir string) {
	k.t.Helper()
	made := os.Mkdir(dir, 0o755) == nil
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		k.t.Fatalf("mount %s: %v", dir, err)
	}
	k.t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			k.t.Errorf("unmount %s: %v", dir, err)
		}
		if made {
			_ = os.Remove(dir) // another test program may have it
		}
	})
}

func (k *kubelet) configure() {
	k.t.Helper()
	networks := filepath.Join(k.dir, "net.d")
	if err := os.MkdirAll(networks, 0o755); err != nil {
		k.t.Fatal(err)
	}
	settings := k.settings1
	if k.major == 2 {
		settings = k.settings2
	}
	node, err := os.ReadFile(filepath.Join(harness.Repository(k.t), "deploy", "configuration.toml"))
	k.must("read the node's configuration", err)
	files := map[string]string{
		filepath.Join(k.dir, "configuration.toml"): fmt.Sprintf("%s\n[agent.kata]\ndial_timeout = %d\n", node, harness.DialTimeout),
		k.config: settings(networks) + k.handler(),
		filepath.Join(networks, "10-bridge.conflist"): `{
  "cniVersion": "0.4.0", "name": "test", "plugins": [
    {"type": "bridge", "bridge": "` + bridge + `", "isGateway": true, "ipam": {
      "type": "host-local", "dataDir": "/run/cni-addresses",
      "ranges": [[{"subnet": "10.88.7.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
  ]
}
`,
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			k.t.Fatal(err)
		}
	}
}

// settings1 is the configuration of containerd 1, without the handler under
// test.
func (k *kubelet) settings1(networks string) string {
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
` + k.systemd("runc")
}

// settings2 is that of containerd 2.
func (k *kubelet) settings2(networks string) string {
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
`
}

// handler is the configuration of the handler under test, as it is deployed,
// with the checkout's program.
func (k *kubelet) handler() string {
	k.t.Helper()
	data, err := os.ReadFile(filepath.Join(harness.Repository(k.t), "deploy", fmt.Sprintf("containerd-%d.toml", k.major)))
	k.must("read the handler's configuration", err)
	program := filepath.Join(harness.Repository(k.t), "bin", "kata-runtime")
	text := strings.NewReplacer("version = 2\n", "", "version = 3\n", "", "/usr/local/bin/kata-runtime", program).Replace(string(data))
	if harness.OnSystemd() {
		text += "    SystemdCgroup = true\n" // the last table is that of the options
	}
	return text
}

// systemd is what lets a runtime's control groups be systemd's.
func (k *kubelet) systemd(name string) string {
	if !harness.OnSystemd() {
		return ""
	}
	return "      [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes." + name + ".options]\n        SystemdCgroup = true\n"
}

// start starts containerd and waits until it says, as systemd's services do,
// that it is ready, and until its CRI plugin is.
func (k *kubelet) start() {
	k.t.Helper()
	const notify = "/run/containerd.notify"
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		k.t.Fatal(err)
	}
	defer os.Remove(notify)
	defer listener.Close()
	log, err := os.Create(k.log)
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	program, path := "containerd", os.Getenv("PATH")
	if k.major == 2 {
		programs := filepath.Join(harness.Repository(k.t), "build", "containerd")
		program, path = filepath.Join(programs, program), programs+":"+path // with a shim of its own
		if _, err := os.Stat(program); err != nil {
			k.t.Fatalf("%v (make containerd makes it)", err)
		}
	}
	command := exec.Command(program, "--config", k.config) // stop ends it, after the pods
	command.Env = append(os.Environ(), "PATH="+path, "NOTIFY_SOCKET="+notify, "TMPDIR="+k.h.Temp,
		"KATA_CONF_FILE="+filepath.Join(k.dir, "configuration.toml"))
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.daemon = command
	if err := listener.SetReadDeadline(time.Now().Add(harness.Patience)); err != nil {
		k.t.Fatal(err)
	}
	message := make([]byte, 4096)
	for n := 0; !strings.Contains(string(message[:n]), "READY=1"); {
		if n, err = listener.Read(message); err != nil {
			k.t.Fatalf("containerd is not ready: %v\n%s", err, k.logged())
		}
	}
	k.h.WaitText(k.log, "Start streaming server")
}

// end ends containerd. Its pods go on.
func (k *kubelet) end() {
	_ = k.daemon.Process.Signal(unix.SIGTERM) // it may have ended
	k.h.WaitExit(k.daemon.Process.Pid)
	_ = k.daemon.Wait() // how it ends is its own affair
}

func (k *kubelet) logged() string {
	text, _ := os.ReadFile(k.log)
	return string(text)
}

// importImage makes the image of every container.
func (k *kubelet) importImage() {
	k.t.Helper()
	rootfs, layer, archive := k.h.File("rootfs"), k.h.File("layer.tar"), k.h.File("image.tar")
	if err := bundle.Rootfs(rootfs); err != nil {
		k.t.Fatal(err)
	}
	if output, err := exec.CommandContext(k.t.Context(), "tar", "-C", rootfs, "-cf", layer, ".").CombinedOutput(); err != nil {
		k.t.Fatalf("tar: %v: %s", err, output)
	}
	// As a pod's sandbox it waits; containers have commands of their own.
	if err := bundle.Image(archive, image, layer, "/bin/sleep", "1000000000"); err != nil {
		k.t.Fatal(err)
	}
	load := exec.CommandContext(k.t.Context(), "ctr", "--namespace", "k8s.io", "images", "import", archive)
	if output, err := load.CombinedOutput(); err != nil {
		k.t.Fatalf("import the image: %v: %s", err, output)
	}
}

// cleanUp ends containerd and removes what it, the CNI plugins and kubelet
// keep when no pod is left: a pod that is left is found, not removed.
func (k *kubelet) cleanUp() {
	if k.daemon == nil {
		return
	}
	if k.t.Failed() {
		k.t.Logf("containerd's log:\n%s", k.logged())
		k.removeAll()
	}
	k.end()
	if err := k.Close(); err != nil {
		k.t.Error(err)
	}
	k.removeParent()
	if link, err := netlink.LinkByName(bridge); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			k.t.Errorf("remove the bridge: %v", err)
		}
	}
	if left, err := os.ReadDir("/run/containerd/s"); err == nil && len(left) > 0 {
		k.t.Errorf("a shim is left: %v", left)
	}
	// host-local keeps its lock and the last address that it gave.
	addresses := "/run/cni-addresses/test"
	if left, err := filepath.Glob(filepath.Join(addresses, "10.*")); err != nil || len(left) > 0 {
		k.t.Errorf("an address is left: %v, %v", left, err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(k.dir))
	if err != nil || len(mounts) > 0 {
		k.t.Errorf("left mounted: %v, %v", mounts, err)
	}
	for _, dir := range []string{"/run/containerd", "/run/cni-addresses"} {
		if err := os.RemoveAll(dir); err != nil {
			k.t.Error(err)
		}
	}
	// containerd leaves the directory of the network namespaces.
	for _, dir := range []string{"/run/netns"} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			k.t.Errorf("left behind: %v", err)
		}
	}
}

// removeAll removes the pods that a failed test left.
func (k *kubelet) removeAll() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.t.Context()), harness.Patience)
	defer cancel()
	pods, err := k.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		k.t.Logf("list the pods that are left: %v", err)
		return
	}
	for _, pod := range pods.Items {
		if _, err := k.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			k.t.Logf("remove pod %s: %v", pod.Id, err)
		}
	}
}

// removeParent removes the cgroup of all pods, which kubelet makes and the
// runtimes make here. A container's that is left makes it fail.
func (k *kubelet) removeParent() {
	if harness.OnSystemd() {
		ctx := context.WithoutCancel(k.t.Context())
		if output, err := exec.CommandContext(ctx, "systemctl", "stop", k.parent).CombinedOutput(); err != nil {
			k.t.Errorf("stop %s: %v: %s", k.parent, err, output)
		}
		return
	}
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + k.parent)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, dir := range append(dirs, "/sys/fs/cgroup"+k.parent) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			k.t.Errorf("left behind: %v", err)
		}
	}
}

// bounded returns a context for one call.
func (k *kubelet) bounded() context.Context {
	ctx, cancel := context.WithTimeout(k.t.Context(), harness.Patience)
	k.t.Cleanup(cancel)
	return ctx
}

// must fails the test if a call failed.
func (k *kubelet) must(what string, err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatalf("%s: %v", what, err)
	}
}

// do waits for a call, whose answer it returns.
func do[Request, Answer, Option any](k *kubelet, call func(context.Context, *Request, ...Option) (*Answer, error), request *Request) *Answer {
	k.t.Helper()
	answer, err := call(k.bounded(), request)
	k.must(fmt.Sprintf("%T", request), err)
	return answer
}
