package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/sandboxtest"
	"kata-runtime/virtcontainers/shim"
	"kata-runtime/virtcontainers/shim/bootstrap"
)

// insideVariable tells the test binary that it has a mount namespace of its own, as
// a shim has.
const insideVariable = "KATA_SHIM_TEST_INSIDE"

// patience is for what happens at once, on a loaded machine.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == holder.Command:
		os.Exit(holder.Run(os.Args[2:]))
	case os.Geteuid() != 0: // nothing could be mounted
		os.Exit(0)
	case os.Getenv(insideVariable) != "":
		if err := hideCgroups(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hideCgroups hides the host's control groups, which are not the test's to change.
func hideCgroups() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for {
		err := unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount control groups: %w", err)
		}
	}
}

// containerd takes events, and remembers them.
type containerd struct {
	mu   sync.Mutex
	got  []string
	came chan struct{} // closed and made anew when got has grown
}

func (c *containerd) Forward(_ context.Context, request *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	event, err := typeurl.UnmarshalAny(request.GetEnvelope().GetEvent())
	if err != nil {
		return nil, err
	}
	text := strings.TrimPrefix(request.GetEnvelope().GetTopic(), "/tasks/")
	switch e := event.(type) {
	case *eventtypes.TaskExit:
		text += fmt.Sprintf(" %s/%s %d", e.GetContainerID(), e.GetID(), e.GetExitStatus())
	case *eventtypes.TaskExecAdded:
		text += " " + e.GetContainerID() + "/" + e.GetExecID()
	case *eventtypes.TaskExecStarted:
		text += " " + e.GetContainerID() + "/" + e.GetExecID()
	case interface{ GetContainerID() string }:
		text += " " + e.GetContainerID()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, text)
	close(c.came)
	c.came = make(chan struct{})
	return &emptypb.Empty{}, nil
}

// fixture is a shim that serves, with the containerd that talks to it, and the
// guest of its pod.
type fixture struct {
	taskapi.TTRPCTaskService // containerd's client

	t       *testing.T
	dir     string
	guest   *sandboxtest.Guest
	sizing  virtcontainers.SizingOptions
	kernel  string // of the pod's configuration
	holders *holders
	events  *containerd
	conn    *ttrpc.Client
	leave   func()             // ends containerd's server of events
	stop    context.CancelFunc // as a signal does
	served  chan error
	log     *bytes.Buffer
}

// serve starts a shim whose first container is c1.
func serve(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		t: t, dir: t.TempDir(), guest: sandboxtest.NewGuest(), holders: &holders{}, served: make(chan error, 1),
		events: &containerd{came: make(chan struct{})}, log: &bytes.Buffer{},
	}
	f.leave = sync.OnceFunc(f.serveEvents())
	listener := listen(t, f.path("shim.sock"))
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go func() {
		f.served <- shim.Serve(ctx, shim.Options{
			Listener: listener, Namespace: "test", ID: "c1", EventsAddress: f.path("events.sock"), Root: f.path("state"),
			Runtime: bootstrap.RuntimeOptions{ConfigPath: f.path("configuration.toml")},
			Rlimits: []specs.POSIXRlimit{}, Log: slog.New(slog.NewTextHandler(&lockedWriter{to: f.log}, nil)),
			NewSandbox: f.newSandbox, StartHolder: f.holders.start,
		})
	}()
	f.conn = f.dial()
	f.TTRPCTaskService = taskapi.NewTTRPCTaskClient(f.conn)
	t.Cleanup(func() {
		f.end()
		f.leave()
		f.nothingLeft()
		if t.Failed() {
			t.Logf("log:\n%s\nevents: %q", f.log, f.events.got)
		}
	})
	return f
}

type lockedWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) serveEvents() (stop func()) {
	server, err := ttrpc.NewServer()
	if err != nil {
		f.t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(server, f.events)
	listener := listen(f.t, f.path("events.sock"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), listener)
	}()
	return func() {
		_ = server.Close()
		<-done
	}
}

func (f *fixture) dial() *ttrpc.Client {
	f.t.Helper()
	conn, err := net.Dial("unix", f.path("shim.sock"))
	if err != nil {
		f.t.Fatal(err)
	}
	return ttrpc.NewClient(conn)
}

func (f *fixture) newSandbox(_ context.Context, spec factory.Spec) (*virtcontainers.Sandbox, string, error) {
	f.kernel = spec.Config.Hypervisor.Kernel
	sandbox := virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
		Machine: f.guest.Machine, Token: sandboxtest.Token, BootTimeout: time.Minute, Log: spec.Log,
	})
	sandbox.Boot()
	err := sandbox.Assign(virtcontainers.Assignment{ID: spec.ID, Share: f.guest.Share, Sizing: f.sizing})
	return sandbox, "none", err
}

// end ends the shim, as a signal does.
func (f *fixture) end() {
	f.t.Helper()
	f.stop()
	f.ended()
}

// ended waits for the shim's end.
func (f *fixture) ended() {
	f.t.Helper()
	select {
	case err, ok := <-f.served:
		if ok && err != nil {
			f.t.Errorf("the shim ended with %v", err)
		}
		if ok {
			close(f.served)
		}
	case <-time.After(patience):
		f.t.Errorf("the shim does not end:\n%s", stacks())
	}
	_ = f.conn.Close()
}

// nothingLeft fails the test when something goes on, or is left on the host.
func (f *fixture) nothingLeft() {
	f.t.Helper()
	f.nothingOnHost()
	look := time.NewTicker(10 * time.Millisecond) // what has returned may still be seen
	defer look.Stop()
	timeout := time.After(patience)
	for rest := ours(); rest != ""; rest = ours() {
		select {
		case <-look.C:
		case <-timeout:
			f.t.Errorf("goroutines are left:\n%s", rest)
			return
		}
	}
}

// nothingOnHost fails the test when the host has something of a pod.
func (f *fixture) nothingOnHost() {
	f.t.Helper()
	if n := f.holders.left(); n != 0 {
		f.t.Errorf("%d namespace holders are left", n)
	}
	entries, err := os.ReadDir(f.path("state"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Error(err)
	}
	for _, entry := range entries {
		f.t.Errorf("%s is left in the state directory", entry.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		f.t.Error(err)
	}
	if strings.Contains(string(mounts), f.dir) {
		f.t.Errorf("mounts are left:\n%s", mounts)
	}
}

func stacks() string {
	buffer := make([]byte, 1<<20)
	return string(buffer[:runtime.Stack(buffer, true)])
}

// ours are the goroutines of the product.
func ours() string {
	var found []string
	for _, stack := range strings.Split(stacks(), "\n\n")[1:] { // the first is this one
		if strings.Contains(stack, "kata-runtime/") && !strings.Contains(stack, "_test.go:") {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}

// bundle makes one, which change may alter.
func (f *fixture) bundle(id string, change ...func(*specs.Spec)) string {
	f.t.Helper()
	dir := f.path("bundle-" + id)
	spec := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"program"}, Cwd: "/"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.PIDNamespace},
		}},
	}
	for _, c := range change {
		c(spec)
	}
	data, err := json.Marshal(spec)
	if err == nil {
		err = os.MkdirAll(filepath.Join(dir, "rootfs"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return dir
}

// joins makes a specification that of a container of a pod.
func joins(sandbox string) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		spec.Annotations = map[string]string{
			"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": sandbox,
		}
	}
}

// member makes a specification that of a container of c1's pod, as containerd's CRI
// does: in the namespaces of a process that stands for the sandbox.
func (f *fixture) member() func(*specs.Spec) {
	f.t.Helper()
	state, err := f.State(f.ctx(), &taskapi.StateRequest{ID: "c1"})
	if err != nil {
		f.t.Fatal(err)
	}
	return func(spec *specs.Spec) {
		joins("c1")(spec)
		for i, kind := range map[int]string{0: "net", 2: "ipc", 3: "uts"} {
			spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", state.GetPid(), kind)
		}
	}
}

// declared makes a specification that of a pod's sandbox.
func declared(spec *specs.Spec) {
	spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "c1"}
}

// request is what containerd asks for.
func (f *fixture) request(id string, change ...func(*specs.Spec)) *taskapi.CreateTaskRequest {
	f.t.Helper()
	f.configure()
	options, err := anypb.New(&runtimeoptions.Options{ConfigPath: f.path("configuration.toml")})
	if err != nil {
		f.t.Fatal(err)
	}
	options.TypeUrl = "runtimeoptions.v1.Options"
	return &taskapi.CreateTaskRequest{ID: id, Bundle: f.bundle(id, change...), Options: options}
}

// configure writes the configuration of the pod.
func (f *fixture) configure() {
	f.t.Helper()
	settings := "[hypervisor]\nkernel = \"/kernel\"\ninitrd = \"/initrd\"\n[runtime]\ninternetworking_model = \"none\"\n"
	if err := os.WriteFile(f.path("configuration.toml"), []byte(settings), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// ctx is a caller's who has patience.
func (f *fixture) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	f.t.Cleanup(cancel)
	return ctx
}

func (f *fixture) create(id string, change ...func(*specs.Spec)) {
	f.t.Helper()
	if _, err := f.Create(f.ctx(), f.request(id, change...)); err != nil {
		f.t.Fatal(err)
	}
}

// run creates and starts a task.
func (f *fixture) run(id string, change ...func(*specs.Spec)) {
	f.t.Helper()
	f.create(id, change...)
	if _, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: id}); err != nil {
		f.t.Fatal(err)
	}
}

// exec adds a process to a task.
func (f *fixture) exec(id, execID string) {
	f.t.Helper()
	if _, err := f.Exec(f.ctx(), execRequest(id, execID)); err != nil {
		f.t.Fatal(err)
	}
}

func execRequest(id, execID string) *taskapi.ExecProcessRequest {
	return &taskapi.ExecProcessRequest{ID: id, ExecID: execID, Spec: &anypb.Any{
		TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: []byte(`{"args":["program"],"cwd":"/"}`),
	}}
}

// wait waits for a process's end, and fails the test unless it is of this code.
func (f *fixture) wait(id, execID string, code uint32) {
	f.t.Helper()
	response, err := f.Wait(f.ctx(), &taskapi.WaitRequest{ID: id, ExecID: execID})
	if err != nil {
		f.t.Fatalf("wait for %s/%s: %v\n%s", id, execID, err, ours())
	}
	if response.GetExitStatus() != code {
		f.t.Errorf("%s/%s ended with %d, want %d", id, execID, response.GetExitStatus(), code)
	}
}

func (f *fixture) remove(id, execID string) {
	f.t.Helper()
	if _, err := f.Delete(f.ctx(), &taskapi.DeleteRequest{ID: id, ExecID: execID}); err != nil {
		f.t.Fatalf("delete %s/%s: %v", id, execID, err)
	}
}

// told fails the test unless these events, in this order, are all that come.
func (f *fixture) told(want ...string) {
	f.t.Helper()
	f.toldAnyOrder(want, nil, nil)
}

// toldAnyOrder is told for events of which those in the middle come in any order.
func (f *fixture) toldAnyOrder(first, middle, last []string) {
	f.t.Helper()
	want := slices.Concat(first, slices.Sorted(slices.Values(middle)), last)
	timeout := time.After(patience)
	for {
		f.events.mu.Lock()
		got, came := slices.Clone(f.events.got), f.events.came
		f.events.mu.Unlock()
		if len(got) >= len(want) {
			slices.Sort(got[len(first) : len(first)+len(middle)])
			if strings.Join(got, ",") != strings.Join(want, ",") {
				f.t.Errorf("events\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			}
			return
		}
		select {
		case <-came:
		case <-timeout:
			f.t.Fatalf("events %q, want %q", got, want)
		}
	}
}

// refused fails the test unless err is of the code, and its text has what a person
// needs.
func refused(t *testing.T, err error, code codes.Code, texts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%v (%v), want %v", err, status.Code(err), code)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not have %q", err, text)
		}
	}
}
