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
	"kata-runtime/test/program"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// The handlers under test, beside runc.
const (
	// handler is kata-runtime, by runc's shim or by CRI-O.
	handler = "kata"
	// shimHandler is the one that has a shim of its own.
	shimHandler = "kata-shim"
	// sandboxHandler is shimHandler by containerd's Sandbox API.
	sandboxHandler = "kata-sandbox"
	// installed is where deploy/ has the runtime.
	installed = "/usr/local/bin/kata-runtime"
)

// The names of what the test's managers have.
const (
	image   = "localhost/busybox:test"
	bridge  = "kata-test0"
	gateway = "10.88.7.1"
	// pause is the program of a pod's sandbox: it waits until it is told to end.
	pause = "/pause"
)

// manager is a container manager that serves CRI: what each does in a way of
// its own.
type manager interface {
	// programs have to be there.
	programs(t testing.TB) []string
	// handlers are the names of the runtimes whose pods are tested, this
	// project's last.
	handlers() []string
	// socket is where it serves CRI.
	socket() string
	// settings returns its configuration, with the CNI networks of a directory.
	settings(k *kubelet, networks string) string
	// command starts it.
	command(k *kubelet) *exec.Cmd
	// serves waits until the manager, which has said that it is ready, serves.
	serves(k *kubelet)
	// load gives it the image of every container: the files of a tar archive,
	// and a command.
	load(k *kubelet, layer string, command ...string)
	// answers are what CRI leaves to it.
	answers() answers
	// ended reports what is left of pods after the manager's end, and removes
	// what it keeps when there are none.
	ended(k *kubelet)
}

// answers is what CRI leaves to a manager.
type answers struct {
	// timeout is how an exec ends that is not done in its time.
	timeout string
	// patient says that a pod's end waits for what ignores TERM.
	patient bool
}

// kubelet is a manager of the test's own and what kubelet does with one.
type kubelet struct {
	*client.Client
	*server
	t testing.TB
	h *harness.Host
}

// server is what the tests and subtests with one manager share.
type server struct {
	manager
	dir    string // its own files
	config string
	parent string // the cgroup of all pods
	log    string
	before []byte // the logs of what has ended
	daemon *exec.Cmd
}

// newKubelet starts a manager with the test's image, which ends after the test:
// when no pod is left, nothing else is.
func newKubelet(t testing.TB, m manager) *kubelet {
	t.Helper()
	for _, name := range append(m.programs(t), "/usr/lib/cni/bridge") {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v (make deps-test containerd crio critest makes and installs what the tests need)", err)
		}
	}
	h := harness.New(t)
	// What CRI-O leaves to the first process of a system: its monitors, and what
	// they left in turn.
	h.ReapOrphans("conmon", "kata-stand-in")
	k := &kubelet{t: t, h: h, server: &server{
		manager: m,
		dir:     h.File("manager"), config: h.File("manager.toml"), log: h.File("manager.log"),
		parent: "/kata-test-" + h.ID(),
	}}
	if harness.OnSystemd() {
		k.parent = "katatest" + h.ID() + ".slice"
	}
	var err error
	if k.Client, err = client.New(m.socket()); err != nil {
		t.Fatal(err)
	}
	// libcni caches its results there, whatever its configuration.
	k.mountEmpty("/var/lib/cni")
	t.Cleanup(k.cleanUp)
	k.configure()
	k.start()
	rootfs := h.File("rootfs")
	k.must("make a root file system", bundle.Rootfs(rootfs))
	k.must("make the pause program", program.Pause(t.Context(), filepath.Join(rootfs, pause)))
	k.call("tar", "-C", rootfs, "-cf", k.layer(), ".")
	m.load(k, k.layer(), pause)
	return k
}

// layer is the path of the archive with the files of every image.
func (k *kubelet) layer() string { return k.h.File("layer.tar") }

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

// call runs a program that has to succeed.
func (k *kubelet) call(name string, args ...string) {
	k.t.Helper()
	if output, err := exec.CommandContext(k.t.Context(), name, args...).CombinedOutput(); err != nil {
		k.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, output)
	}
}

// configure writes the configuration of everything.
func (k *kubelet) configure() {
	k.t.Helper()
	networks := filepath.Join(k.dir, "net.d")
	k.must("make a directory", os.MkdirAll(networks, 0o755))
	k.write(filepath.Join(networks, "10-bridge.conflist"), `{
  "cniVersion": "0.4.0", "name": "test", "plugins": [
    {"type": "bridge", "bridge": "`+bridge+`", "isGateway": true, "ipam": {
      "type": "host-local", "dataDir": "/run/cni-addresses",
      "ranges": [[{"subnet": "10.88.7.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
  ]
}
`)
	k.configureRuntime("")
	k.write(k.config, k.settings(k, networks))
}

// runtimeConfig is the path of the runtime's own configuration.
func (k *kubelet) runtimeConfig() string { return filepath.Join(k.dir, "configuration.toml") }

// configureRuntime writes the runtime's configuration: that of deploy, and more.
func (k *kubelet) configureRuntime(text string) {
	k.t.Helper()
	// deploy's ends in the table [hypervisor].
	k.write(k.runtimeConfig(), fmt.Sprintf("%s\nenable_annotations = [\"kernel_params\"]\n%s\n[agent.kata]\ndebug_console_enabled = true\ndial_timeout = %d\n%s", k.deployed("configuration.toml"), harness.Hypervisor(), harness.DialTimeout, text))
}

// deployed returns a file of deploy, with the checkout's program.
func (k *kubelet) deployed(name string) string {
	k.t.Helper()
	data, err := os.ReadFile(filepath.Join(harness.Repository(k.t), "deploy", name))
	k.must("read what is deployed", err)
	return strings.ReplaceAll(string(data), installed, filepath.Join(harness.Repository(k.t), "bin", "kata-runtime"))
}

// tool returns the path of a program that was built as a pinned tool, or the
// directory of the tool.
func tool(t testing.TB, name ...string) string {
	t.Helper()
	dir := os.Getenv(program.ToolsVariable)
	if dir == "" {
		dir = filepath.Join(harness.Repository(t), "build")
	}
	return filepath.Join(append([]string{dir}, name...)...)
}

func (k *kubelet) write(path, text string) {
	k.t.Helper()
	k.must("write a file", os.WriteFile(path, []byte(text), 0o600))
}

// start starts the manager and waits until it is ready and serves.
func (k *kubelet) start() {
	k.t.Helper()
	if data, err := os.ReadFile(k.log); err == nil {
		k.before = append(k.before, data...) // what it says now is waited for
	}
	k.daemon = k.command(k) // end ends it, after the pods
	k.launch(k.daemon, k.log)
	k.serves(k)
}

// launch starts a service with a new log and waits until it says, as systemd's
// services do, that it is ready.
func (k *kubelet) launch(command *exec.Cmd, path string) {
	k.t.Helper()
	const notify = "/run/manager.notify"
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	k.must("listen", err)
	defer os.Remove(notify)
	defer listener.Close()
	command.Env = append(command.Env, "NOTIFY_SOCKET="+notify)
	k.begin(command, path)
	k.must("set a deadline", listener.SetReadDeadline(time.Now().Add(harness.Patience)))
	message := make([]byte, 4096)
	for n := 0; !strings.Contains(string(message[:n]), "READY=1"); {
		if n, err = listener.Read(message); err != nil {
			text, _ := os.ReadFile(path)
			k.t.Fatalf("%s is not ready: %v\n%s", command.Path, err, text)
		}
	}
}

// begin starts a service with a new log.
func (k *kubelet) begin(command *exec.Cmd, path string) {
	k.t.Helper()
	log, err := os.Create(path)
	k.must("make the log", err)
	defer log.Close()
	command.Env = append(command.Env, "TMPDIR="+k.h.Temp)
	command.Stdout, command.Stderr = log, log
	k.must("start a service", command.Start())
}

// end ends the manager. Its pods go on.
func (k *kubelet) end() {
	_ = k.daemon.Process.Signal(unix.SIGTERM) // it may have ended
	k.h.WaitExit(k.daemon.Process.Pid)
	_ = k.daemon.Wait() // how it ends is its own affair
}

func (k *kubelet) logged() string {
	text, _ := os.ReadFile(k.log)
	return string(k.before) + string(text)
}

// cleanUp ends the manager and removes what it, the CNI plugins and kubelet
// keep when no pod is left: a pod that is left is found, not removed.
func (k *kubelet) cleanUp() {
	if k.daemon == nil {
		return
	}
	if k.t.Failed() {
		k.t.Logf("the manager's log:\n%s", k.logged())
		k.removeAll()
	}
	k.end()
	if err := k.Close(); err != nil {
		k.t.Error(err)
	}
	k.ended(k)
	k.removeParent()
	if link, err := netlink.LinkByName(bridge); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			k.t.Errorf("remove the bridge: %v", err)
		}
	}
	// host-local keeps its lock and the last address that it gave.
	addresses := "/run/cni-addresses/test"
	if left, err := filepath.Glob(filepath.Join(addresses, "10.*")); err != nil || len(left) > 0 {
		k.t.Errorf("an address is left: %v, %v", left, err)
	}
	k.checkMounts(k.dir)
	k.removeTree("/run/cni-addresses")
}

// checkMounts reports what is left mounted below a directory.
func (k *kubelet) checkMounts(dir string) {
	k.t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil || len(mounts) > 0 {
		k.t.Errorf("left mounted: %v, %v", mounts, err)
	}
}

// removeTree removes what a manager keeps.
func (k *kubelet) removeTree(dir string) {
	k.t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		k.t.Error(err)
	}
}

// removeEmpty removes a directory that may be there and has to be empty.
func (k *kubelet) removeEmpty(dir string) {
	k.t.Helper()
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		k.t.Errorf("left behind: %v", err)
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
