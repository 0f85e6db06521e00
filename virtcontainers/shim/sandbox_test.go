package shim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/sandboxtest"
	"kata-runtime/virtcontainers/shim/pause"
)

// sandboxed is a fixture with containerd's client of the Sandbox API.
type sandboxed struct {
	*fixture
	sandboxapi.TTRPCSandboxService
}

// serveSandbox starts a shim for the sandbox c1, whose namespaces a process has.
func serveSandbox(t *testing.T) *sandboxed {
	t.Helper()
	f := serve(t)
	f.configure()
	process := exec.CommandContext(t.Context(), "sleep", "1000")
	process.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID,
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait() // killed
	})
	f.holders.pid = process.Process.Pid
	return &sandboxed{f, sandboxapi.NewTTRPCSandboxClient(f.conn)}
}

// namespace is the path of one of the pod's, as containerd writes it.
func (f *sandboxed) namespace(name string) string {
	return fmt.Sprintf("/proc/%d/ns/%s", f.holders.pid, name)
}

// sandbox is what containerd asks for.
func (f *sandboxed) sandbox(pid cri.NamespaceMode) *sandboxapi.CreateSandboxRequest {
	f.t.Helper()
	options, err := anypb.New(&cri.PodSandboxConfig{
		Hostname:  "pod-1",
		DnsConfig: &cri.DNSConfig{Servers: []string{"10.0.0.1"}},
		Linux: &cri.LinuxPodSandboxConfig{
			Sysctls:         map[string]string{"net.core.somaxconn": "7"},
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: pid}},
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	options.TypeUrl = strings.TrimPrefix(options.GetTypeUrl(), "type.googleapis.com/")
	dir := f.path("sandbox")
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	return &sandboxapi.CreateSandboxRequest{SandboxID: "c1", BundlePath: dir, Options: options, NetnsPath: f.namespace("net")}
}

// start makes a sandbox and starts it.
func (f *sandboxed) start(pid cri.NamespaceMode) {
	f.t.Helper()
	if _, err := f.CreateSandbox(f.ctx(), f.sandbox(pid)); err != nil {
		f.t.Fatal(err)
	}
	started, err := f.StartSandbox(f.ctx(), &sandboxapi.StartSandboxRequest{SandboxID: "c1"})
	if err != nil || started.GetPid() != uint32(f.holders.pid) || started.GetCreatedAt().AsTime().Unix() == 0 {
		f.t.Fatalf("%v, %v", started, err)
	}
}

// member makes a specification that of a container of the pod, as containerd's CRI
// does.
func (f *sandboxed) member(spec *specs.Spec) {
	joins("c1")(spec)
	for i, ns := range spec.Linux.Namespaces {
		switch ns.Type {
		case specs.NetworkNamespace:
			spec.Linux.Namespaces[i].Path = f.namespace("net")
		case specs.IPCNamespace, specs.UTSNamespace:
			spec.Linux.Namespaces[i].Path = f.namespace(string(ns.Type))
		default:
		}
	}
	spec.Mounts = []specs.Mount{{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"}}
}

// shareProcesses makes a member one that sees the others' processes.
func (f *sandboxed) shareProcesses(spec *specs.Spec) {
	for i, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			spec.Linux.Namespaces[i].Path = f.namespace("pid")
		}
	}
}

// given are the specifications with which the guest's containers were made.
func (f *sandboxed) given() map[string]*specs.Spec {
	f.t.Helper()
	given := make(map[string]*specs.Spec)
	for _, request := range sandboxtest.Requests[*protocol.CreateContainerRequest](f.guest, "CreateContainer") {
		var spec specs.Spec
		if err := json.Unmarshal(request.GetSpecJson(), &spec); err != nil {
			f.t.Fatal(err)
		}
		given[request.GetContainerId()] = &spec
	}
	return given
}

func (f *sandboxed) state() string {
	f.t.Helper()
	status, err := f.SandboxStatus(f.ctx(), &sandboxapi.SandboxStatusRequest{SandboxID: "c1"})
	if err != nil {
		f.t.Fatal(err)
	}
	return status.GetState()
}

func (f *sandboxed) shutdown() {
	f.t.Helper()
	if _, err := f.ShutdownSandbox(f.ctx(), &sandboxapi.ShutdownSandboxRequest{SandboxID: "c1"}); err != nil {
		f.t.Error(err)
	}
	f.nothingOnHost()
	_ = f.conn.Close() // as containerd does
	f.ended()
}

func TestSandbox(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_CONTAINER)
	if got := f.state(); got != "SANDBOX_READY" {
		t.Error(got)
	}
	if _, err := f.PingSandbox(f.ctx(), &sandboxapi.PingRequest{SandboxID: "c1"}); err != nil {
		t.Error(err)
	}
	if p, err := f.Platform(f.ctx(), &sandboxapi.PlatformRequest{SandboxID: "c1"}); err != nil || p.GetPlatform().GetOS() != "linux" {
		t.Errorf("%v, %v", p, err)
	}
	for range 2 { // the pod outlives its last container
		f.run("c2", f.member)
		if _, err := f.Kill(f.ctx(), &taskapi.KillRequest{ID: "c2", Signal: uint32(unix.SIGTERM)}); err != nil {
			t.Error(err)
		}
		f.fixture.wait("c2", "", 143)
		f.remove("c2", "")
		if _, err := f.TTRPCTaskService.Shutdown(f.ctx(), &taskapi.ShutdownRequest{ID: "c2"}); err != nil {
			t.Error(err)
		}
	}
	checkMember(t, f.given()["c2"])
	waited := make(chan error, 1)
	go func() {
		ended, err := f.WaitSandbox(f.ctx(), &sandboxapi.WaitSandboxRequest{SandboxID: "c1"})
		if err == nil && ended.GetExitStatus() != 0 {
			err = fmt.Errorf("exit status %d", ended.GetExitStatus())
		}
		waited <- err
	}()
	if _, err := f.StopSandbox(f.ctx(), &sandboxapi.StopSandboxRequest{SandboxID: "c1"}); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if n := f.holders.left(); n != 0 {
		t.Errorf("%d processes are in a stopped sandbox's namespaces", n)
	}
	if got := f.state(); got != "SANDBOX_NOTREADY" {
		t.Error(got)
	}
	_, err := f.PingSandbox(f.ctx(), &sandboxapi.PingRequest{SandboxID: "c1"})
	refused(t, err, codes.Unavailable)
	f.shutdown()
}

// checkMember looks at what a container has of a pod without a sandbox container.
func checkMember(t *testing.T, spec *specs.Spec) {
	t.Helper()
	for _, ns := range spec.Linux.Namespaces {
		if shared := ns.Type == specs.IPCNamespace || ns.Type == specs.UTSNamespace; shared && ns.Path != protocol.SandboxNamespace {
			t.Errorf("its %s namespace is %q", ns.Type, ns.Path)
		}
	}
	var destinations []string
	for _, m := range spec.Mounts {
		destinations = append(destinations, m.Destination)
		if m.Destination == "/dev/shm" && !strings.HasPrefix(m.Source, protocol.MemoryMountPoint) {
			t.Errorf("/dev/shm is %v, no memory of the pod's", m)
		}
	}
	slices.Sort(destinations)
	if want := []string{"/dev/shm", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}; !slices.Equal(destinations, want) {
		t.Errorf("it has mounts at %q, want %q", destinations, want)
	}
	if spec.Linux.Sysctl["net.core.somaxconn"] != "7" {
		t.Errorf("its kernel parameters are %v", spec.Linux.Sysctl)
	}
}

func TestSandboxFiles(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_CONTAINER)
	for name, want := range map[string]string{"hostname": "pod-1\n", "resolv.conf": "nameserver 10.0.0.1\n"} {
		if got, err := os.ReadFile(filepath.Join(f.path("sandbox"), name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	f.shutdown()
}

// Containers that share their processes have those of a pause process.
func TestSandboxSharesProcesses(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_POD)
	f.run("c2", f.member, f.shareProcesses)
	given := f.given()
	if got := given["c1"].Process.Args; !slices.Equal(got, []string{pause.Path, pause.Command}) {
		t.Errorf("the pod's first process is %q", got)
	}
	for _, ns := range given["c2"].Linux.Namespaces {
		if ns.Type == specs.PIDNamespace && ns.Path != protocol.ContainerNamespace("c1") {
			t.Errorf("the container's processes are in %q", ns.Path)
		}
	}
	_, err := f.State(f.ctx(), &taskapi.StateRequest{ID: "c1"})
	refused(t, err, codes.NotFound) // containerd does not know it
	f.guest.Exit(sandboxtest.Init("c1"), 1)
	f.fixture.wait("c2", "", 137)
	f.remove("c2", "")
	if got := f.state(); got != "SANDBOX_NOTREADY" {
		t.Errorf("after the end of its first process: %s", got)
	}
	f.shutdown()
}

func TestSandboxSharesNoProcesses(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_CONTAINER)
	_, err := f.Create(f.ctx(), f.request("c2", f.member, f.shareProcesses))
	if err == nil || !strings.Contains(err.Error(), "was not made to share it") {
		t.Errorf("%v", err)
	}
	f.shutdown()
}

// What the pod's containers use together is the pod's.
func TestSandboxMetrics(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_CONTAINER)
	metrics, err := f.SandboxMetrics(f.ctx(), &sandboxapi.SandboxMetricsRequest{SandboxID: "c1"})
	if err != nil || metrics.GetMetrics().GetID() != "c1" || metrics.GetMetrics().GetData().GetTypeUrl() != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("%v, %v", metrics, err)
	}
	f.shutdown()
}

// The machine ends of itself.
func TestSandboxMachineEnds(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_CONTAINER)
	f.run("c2", f.member)
	f.guest.Machine.Fail(errors.New("QEMU was killed"))
	ended, err := f.WaitSandbox(f.ctx(), &sandboxapi.WaitSandboxRequest{SandboxID: "c1"})
	if err != nil || ended.GetExitStatus() != 137 {
		t.Errorf("%v, %v", ended, err)
	}
	f.fixture.wait("c2", "", 137)
	f.remove("c2", "")
	f.shutdown()
}

func TestSandboxRefusals(t *testing.T) {
	f := serveSandbox(t)
	_, err := f.StartSandbox(f.ctx(), &sandboxapi.StartSandboxRequest{SandboxID: "c1"})
	refused(t, err, codes.NotFound)
	_, err = f.UpdateSandbox(f.ctx(), &sandboxapi.UpdateSandboxRequest{SandboxID: "c1"})
	refused(t, err, codes.NotFound)
	for _, test := range []struct {
		name   string
		change func(*sandboxapi.CreateSandboxRequest)
		code   codes.Code
		text   string
	}{
		{"another sandbox", func(r *sandboxapi.CreateSandboxRequest) { r.SandboxID = "c2" }, codes.InvalidArgument, `"c2"`},
		{"an annotation that is not allowed", func(r *sandboxapi.CreateSandboxRequest) {
			r.Annotations = map[string]string{"io.katacontainers.config.hypervisor.kernel": "/mine"}
		}, codes.InvalidArgument, "kernel"},
		{"unknown options", func(r *sandboxapi.CreateSandboxRequest) { r.Options.TypeUrl = "example.com/X" }, codes.InvalidArgument, `"X"`},
		{"the host's network", func(r *sandboxapi.CreateSandboxRequest) { r.NetnsPath = "/proc/self/ns/net" }, codes.InvalidArgument, "host_network"},
		{"no network", func(r *sandboxapi.CreateSandboxRequest) { r.NetnsPath = "/nowhere" }, codes.InvalidArgument, "/nowhere"},
		{"the host's processes", func(r *sandboxapi.CreateSandboxRequest) {
			r.Options = f.sandbox(cri.NamespaceMode_NODE).GetOptions()
		}, codes.InvalidArgument, "hostPID"},
	} {
		request := f.sandbox(cri.NamespaceMode_CONTAINER)
		test.change(request)
		_, err := f.CreateSandbox(f.ctx(), request)
		t.Run(test.name, func(t *testing.T) { refused(t, err, test.code, test.text) })
		f.nothingOnHost()
	}
	f.start(cri.NamespaceMode_CONTAINER)
	_, err = f.CreateSandbox(f.ctx(), f.sandbox(cri.NamespaceMode_CONTAINER))
	refused(t, err, codes.AlreadyExists)
	f.shutdown()
}

// A pod that a task has begun is none of the Sandbox API's.
func TestSandboxOfTask(t *testing.T) {
	f := serveSandbox(t)
	f.run("c1")
	_, err := f.ShutdownSandbox(f.ctx(), &sandboxapi.ShutdownSandboxRequest{SandboxID: "c1"})
	refused(t, err, codes.NotFound)
	_, err = f.CreateSandbox(f.ctx(), f.sandbox(cri.NamespaceMode_CONTAINER))
	refused(t, err, codes.AlreadyExists)
	f.end()
}
