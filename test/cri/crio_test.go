//go:build vm

package cri

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/test/harness"
)

// crio is the pinned CRI-O with Debian's conmon. It has no runc beside the
// runtime under test: CRI-O lowers each sandbox's oom_score_adj, for which runc
// needs CAP_SYS_RESOURCE, and where the tests run without that capability none
// of its pods starts.
type crio struct {
	// keepInfra is CRI-O's setting that keeps the sandbox's container of each pod.
	keepInfra bool
}

const (
	// crioRun has what CRI-O keeps in memory.
	crioRun = "/run/crio"
	// namelessHandler is the runtime under test by a name that does not tell CRI-O
	// that its pods are machines.
	namelessHandler = "isolated"
	// vmHandler is the runtime by its own shim, CRI-O's type "vm", by a name that does
	// not tell either: the type does.
	vmHandler = "isolated-vm"
)

func (c *crio) handlers() []string { return []string{handler} }

func (c *crio) socket() string { return crioRun + "/crio.sock" }

func (c *crio) programs(t testing.TB) []string {
	t.Helper()
	return []string{"conmon", "podman", tool(t, "crio", "crio"), tool(t, "crio", "pinns")}
}

func (c *crio) settings(k *kubelet, networks string) string {
	k.t.Helper()
	policy := filepath.Join(k.dir, "policy.json")
	k.write(policy, `{"default": [{"type": "insecureAcceptAnything"}]}`)
	cgroups, monitor := "cgroupfs", "pod"
	if harness.OnSystemd() {
		cgroups, monitor = "systemd", "system.slice"
	}
	kata := k.deployed("50-kata.conf") + fmt.Sprintf("monitor_cgroup = %q\nmonitor_env = [%q]\n", monitor, "KATA_CONF_FILE="+k.runtimeConfig())
	kata += strings.ReplaceAll(kata, "runtimes."+handler, "runtimes."+namelessHandler)
	kata += fmt.Sprintf(`[crio.runtime.runtimes.`+vmHandler+`]
runtime_type = "vm"
runtime_path = %q
runtime_root = "`+crioRun+`/shims"
runtime_config_path = %q
`, filepath.Join(harness.Repository(k.t), "bin", "containerd-shim-kata-v2"), k.runtimeConfig())
	return fmt.Sprintf(`[crio]
root = %q
runroot = "`+crioRun+`/storage"
storage_driver = "overlay"
log_dir = %q
version_file = "`+crioRun+`/version"
clean_shutdown_file = %q
[crio.api]
listen = %q
[crio.runtime]
cgroup_manager = %q
default_runtime = "`+handler+`"
drop_infra_ctr = %t
pinns_path = %q
namespaces_dir = "`+crioRun+`/namespaces"
container_exits_dir = "`+crioRun+`/exits"
container_attach_socket_dir = "`+crioRun+`/attach"
hooks_dir = []
irqbalance_config_restore_file = "disable"
[crio.image]
pause_image = "`+image+`"
pause_command = ""
signature_policy = %q
[crio.network]
network_dir = %q
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = false
`, c.root(k), filepath.Join(k.dir, "logs"), filepath.Join(k.dir, "clean.shutdown"), c.socket(), cgroups, !c.keepInfra,
		tool(k.t, "crio", "pinns"), policy, networks) + kata
}

func (c *crio) root(k *kubelet) string { return filepath.Join(k.dir, "root") }

func (c *crio) command(k *kubelet) *exec.Cmd {
	command := exec.Command(tool(k.t, "crio", "crio"), "--config", k.config, "--config-dir", "")
	command.Env = append(os.Environ(), "KATA_SHIM_ROOT="+filepath.Join(k.dir, "shim"))
	return command
}

func (c *crio) serves(*kubelet) {}

func (c *crio) load(k *kubelet, layer string, command ...string) {
	k.t.Helper()
	text, err := json.Marshal(command)
	k.must("encode the command", err)
	podman := []string{
		"--root", c.root(k), "--runroot", crioRun + "/storage", "--tmpdir", crioRun + "/podman", "--storage-driver", "overlay",
		"--cgroup-manager", "cgroupfs", "import", "--change", "CMD " + string(text), "--change", "ENV PATH=/bin", layer, image,
	}
	k.call("podman", podman...)
	k.removeTree("/run/containers")
	k.must("remove podman's locks", os.Remove("/dev/shm/libpod_lock"))
}

// answers has the timeout in an answer that is no error.
func (c *crio) answers() answers { return answers{timeout: "command timed out", patient: true} }

func (c *crio) ended(k *kubelet) {
	k.t.Helper()
	for _, pattern := range []string{crioRun + "/namespaces/*/*", "/run/kata-runtime/*/"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			k.t.Errorf("left behind: %v, %v", left, err)
		}
	}
	// kubelet removes those of each monitor with the pod's.
	for _, hierarchy := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		monitors, err := filepath.Glob(hierarchy + k.parent + "/crio-conmon-*")
		k.must("find the monitors' control groups", err)
		for _, dir := range monitors {
			k.removeEmpty(dir)
		}
	}
	for _, dir := range []string{"/run/containerd/s", "/run/containerd"} { // of the shims' sockets
		k.removeEmpty(dir)
	}
	k.checkMounts(crioRun)
	k.removeTree(crioRun) // with a link for each container's monitor
	k.removeTree("/run/kata-runtime")
}

// TestCRIO takes pods through their lives with CRI-O.
func TestCRIO(t *testing.T) {
	server := &crio{}
	k := newKubelet(t, server)
	t.Run(handler, func(t *testing.T) { testPod(t, k.in(t), handler) })
	t.Run(vmHandler, func(t *testing.T) { testPod(t, k.in(t), vmHandler) })
	t.Run("conmon killed", func(t *testing.T) { testMonitorKilled(k.in(t)) })
	t.Run("host network", func(t *testing.T) { testHostNetworkRefused(k.in(t)) })
	t.Run("sandbox container dropped", func(t *testing.T) { testInfraDropped(k.in(t)) })
	if os.Getenv("KATA_TEST_FULL") == "" {
		return
	}
	t.Run("host network by passt", func(t *testing.T) { testHostNetworkServed(k.in(t)) })
	t.Run("pod after pod", func(t *testing.T) { testManyPods(t, k.in(t), handler, 10, 1) })
	t.Run("sandbox container kept", func(t *testing.T) {
		k := k.in(t)
		server.keepInfra = true
		k.configure()
		k.end()
		k.start()
		for _, handler := range []string{handler, namelessHandler, vmHandler} {
			p := k.run(handler, k.podConfig("kept-"+handler))
			p.start("server", serve("127.0.0.1", 8080, "server")).await("ready")
			if got := p.start("client", "echo ready; sleep 100000").await("ready").output(ask("127.0.0.1", 8080)); got != "server\n" {
				t.Errorf("with the handler %s the other container answers %q", handler, got)
			}
			p.remove()
		}
	})
}

// testMonitorKilled kills what stands between CRI-O and a container. As with
// runc, the container goes on, and what becomes of its end nobody knows.
func testMonitorKilled(k *kubelet) {
	k.t.Helper()
	p := k.run(handler, k.podConfig("monitors"))
	c := p.start("main", "trap 'exit 3' TERM; echo ready; while :; do sleep 100000 & wait $!; done").await("ready")
	other := p.start("other", "echo ready; sleep 100000").await("ready")
	k.killMonitor(c.id)
	if got := c.output("hostname"); got != p.config.Hostname+"\n" {
		k.t.Errorf("the container without its monitor says %q", got)
	}
	c.stop(60)
	if s := c.settled(); s.State != runtime.ContainerState_CONTAINER_EXITED {
		k.t.Errorf("the stopped container without its monitor: %v", s)
	}
	c.remove()
	k.killMonitor(p.id)
	if got := other.output("hostname"); got != p.config.Hostname+"\n" {
		k.t.Errorf("the pod without its sandbox's monitor says %q", got)
	}
	p.remove() // with its running container
}

// killMonitor kills the conmon of a container.
func (k *kubelet) killMonitor(id string) {
	k.t.Helper()
	data, err := os.ReadFile(filepath.Join(crioRun, "storage/overlay-containers", id, "userdata/conmon-pidfile"))
	k.must("find conmon", err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	k.must("read conmon's pid", err)
	k.must("kill conmon", unix.Kill(pid, unix.SIGKILL))
	k.h.WaitExit(pid)
}

// hostNetwork is the configuration of a pod with the host's network.
func (k *kubelet) hostNetwork(name string) *runtime.PodSandboxConfig {
	k.t.Helper()
	config := k.podConfig(name)
	config.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
	return config
}

// testHostNetworkRefused asks for what a machine does not have.
func testHostNetworkRefused(k *kubelet) {
	k.t.Helper()
	request := &runtime.RunPodSandboxRequest{Config: k.hostNetwork("refused"), RuntimeHandler: handler}
	if _, err := k.RunPodSandbox(k.bounded(), request); err == nil || !strings.Contains(err.Error(), "host_network") {
		k.t.Errorf("a pod on the host's network: %v", err)
	}
	k.checkNoPod()
}

// checkNoPod checks that the manager knows of none.
func (k *kubelet) checkNoPod() {
	k.t.Helper()
	if pods := do(k, k.ListPodSandbox, &runtime.ListPodSandboxRequest{}).Items; len(pods) > 0 {
		k.t.Errorf("pods are left: %v", pods)
	}
}

// testHostNetworkServed runs a pod on the host's network beside CRI-O's own
// servers, which are there too.
func testHostNetworkServed(k *kubelet) {
	k.t.Helper()
	k.addDefaultRoute()
	k.configureRuntime("[runtime]\nhost_network = \"passt\"\nhost_network_tcp_ports = \"8081\"\n")
	defer k.configureRuntime("")
	config := k.hostNetwork("served")
	answer := do(k, k.RunPodSandbox, &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	p := &pod{kubelet: k, config: config, id: answer.PodSandboxId}
	c := p.start("server", serve("0.0.0.0", 8081, "server"), func(config *runtime.ContainerConfig) {
		config.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
	}).await("ready")
	if got := c.output("echo yes"); got != "yes\n" {
		k.t.Errorf("exec: %q", got)
	}
	session := c.stream("read line; echo got $line; exit 6", false)
	c.write(session, "hello\n")
	if got := c.h.ReadAll(session.Stdout); got != "got hello\n" {
		k.t.Errorf("standard output %q", got)
	}
	c.exits(session, 6)
	p.testForward(8081, "server")
	p.remove()
}

// addDefaultRoute gives the test's host a way out, without which there is nothing
// that a pod on its network could have.
func (k *kubelet) addDefaultRoute() {
	k.t.Helper()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "world0"}, PeerName: "world1"}
	k.must("make an interface", netlink.LinkAdd(link))
	k.t.Cleanup(func() { _ = netlink.LinkDel(link) }) // what is left is reported
	peer, err := netlink.LinkByName(link.PeerName)
	k.must("find its peer", err)
	address, err := netlink.ParseAddr("10.80.0.1/24")
	k.must("parse an address", err)
	k.must("give it an address", netlink.AddrAdd(link, address))
	for _, l := range []netlink.Link{link, peer} {
		k.must("bring an interface up", netlink.LinkSetUp(l))
	}
	k.must("make a route", netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("10.80.0.2"), Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}))
}

// testInfraDropped runs a pod by a handler whose name does not say that there is
// a machine: CRI-O makes no container for the sandbox, and nothing starts it.
func testInfraDropped(k *kubelet) {
	k.t.Helper()
	p := k.run(namelessHandler, k.podConfig("dropped"))
	_, err := p.CreateContainer(p.bounded(), &runtime.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: p.config, Config: p.containerConfig("main", "echo ready"),
	})
	if err == nil || !strings.Contains(err.Error(), p.id) {
		k.t.Errorf("a container without its sandbox's: %v", err)
	}
	p.remove()
}
