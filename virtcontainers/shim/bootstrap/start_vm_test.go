//go:build vm

package bootstrap

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	boot "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	sandbox "github.com/containerd/containerd/api/runtime/sandbox/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	runc "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/store"
)

// socketsVariable tells the program under test where sockets belong.
const socketsVariable = "TEST_SOCKETS"

// TestMain is also the program, with a task service that does nothing.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		p := Program{Version: "1", Commit: "abc", SocketDir: os.Getenv(socketsVariable), Serve: serveFake}
		os.Exit(p.Run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fake tells what it was given, and does by some calls what tests look at.
type fake struct {
	task.TTRPCTaskService // what a test does not need panics

	server  Server
	entry   *store.Entry
	end     context.CancelFunc
	sandbox bool // there is no task of its id

	mu      sync.Mutex
	deleted bool // and the pod goes on
}

func serveFake(ctx context.Context, s Server) error {
	states, err := store.Open(s.StateRoot)
	if err != nil {
		return err
	}
	entry, err := states.Reserve(s.ID)
	if err != nil {
		return err
	}
	start, err := store.StartTime(os.Getpid())
	if err != nil {
		return err
	}
	if err := entry.Update(func(state *store.State) error {
		state.SandboxID, state.SupervisorPID, state.SupervisorStartTime = s.ID, os.Getpid(), start
		return nil
	}); err != nil {
		return err
	}
	defer entry.Remove()
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &fake{server: s, entry: entry, end: cancel}
	if _, err := os.Stat(filepath.Join(s.Bundle, "config.json")); errors.Is(err, fs.ErrNotExist) {
		f.sandbox = true
		sandbox.RegisterTTRPCSandboxService(server, fakeSandbox{end: cancel})
	}
	task.RegisterTTRPCTaskService(server, f)
	go server.Serve(ctx, s.Listener)
	s.Log.Info("serves", "id", s.ID)
	<-ctx.Done()
	return server.Close()
}

func (f *fake) State(_ context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if (f.deleted || f.sandbox) && r.GetID() != "" {
		return nil, status.Error(codes.NotFound, "it was deleted")
	}
	given := f.server
	given.Listener, given.HostMounts, given.Log = nil, nil, nil
	data, err := json.Marshal(given)
	return &task.StateResponse{ID: string(data), Pid: uint32(os.Getpid())}, err
}

// Pause mounts something on the bundle's rootfs.
func (f *fake) Pause(context.Context, *task.PauseRequest) (*emptypb.Empty, error) {
	rootfs := filepath.Join(f.server.Bundle, "rootfs")
	if err := unix.Mount("fake", rootfs, "tmpfs", 0, ""); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, os.WriteFile(filepath.Join(rootfs, "file"), nil, 0o600)
}

// Resume looks for a file as the caller sees it.
func (f *fake) Resume(_ context.Context, r *task.ResumeRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, namespace.WithMounts(f.server.HostMounts, func() error {
		_, err := os.Stat(r.GetID())
		return err
	})
}

func (f *fake) Kill(context.Context, *task.KillRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (f *fake) Wait(context.Context, *task.WaitRequest) (*task.WaitResponse, error) {
	if f.sandbox {
		return nil, status.Error(codes.NotFound, "there is no such task")
	}
	return &task.WaitResponse{}, nil
}

func (f *fake) Delete(context.Context, *task.DeleteRequest) (*task.DeleteResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deleted = true // the entry remains the pod's
	return &task.DeleteResponse{}, nil
}

func (f *fake) Shutdown(context.Context, *task.ShutdownRequest) (*emptypb.Empty, error) {
	f.end()
	return &emptypb.Empty{}, nil
}

// fakeSandbox ends with its sandbox.
type fakeSandbox struct {
	sandbox.TTRPCSandboxService

	end context.CancelFunc
}

func (f fakeSandbox) ShutdownSandbox(_ context.Context, r *sandbox.ShutdownSandboxRequest) (*sandbox.ShutdownSandboxResponse, error) {
	if r.GetSandboxID() != "pod" {
		return nil, status.Error(codes.NotFound, "there is no such sandbox")
	}
	f.end()
	return &sandbox.ShutdownSandboxResponse{}, nil
}

// world is what one containerd has.
type world struct {
	t                      *testing.T
	sockets, bundles, root string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, sockets: shortDir(t), bundles: t.TempDir(), root: filepath.Join(t.TempDir(), "state")}
	t.Cleanup(func() {
		entries, _ := os.ReadDir(w.bundles)
		for _, entry := range entries {
			if pid := w.pid(entry.Name()); pid > 0 {
				_ = unix.Kill(pid, unix.SIGKILL) // unless it has ended
				w.awaitEnd(pid)
			}
		}
	})
	return w
}

// bundle makes one with containerd's FIFO for the log.
func (w *world) bundle(id, annotations string) string {
	w.t.Helper()
	dir := filepath.Join(w.bundles, id)
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	writeConfig(w.t, dir, annotations)
	if err := unix.Mkfifo(filepath.Join(dir, "log"), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		w.t.Fatal(err)
	}
	return dir
}

func (w *world) command(id string, action ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"-namespace", "k8s.io", "-address", "/c.sock", "-publish-binary", "/bin/true", "-id", id}, action...)...)
	cmd.Dir = filepath.Join(w.bundles, id)
	cmd.Env = append(os.Environ(), socketsVariable+"="+w.sockets, RootVariable+"="+w.root, ttrpcVariable+"=/c.sock.ttrpc", "GOMAXPROCS=2")
	return cmd
}

// run is what containerd does: it reads both streams as the answer, until nobody
// has them open.
func (w *world) run(cmd *exec.Cmd) (string, error) {
	w.t.Helper()
	cmd.WaitDelay = 5 * time.Second
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		w.t.Errorf("somebody keeps its streams open: %v", cmd.Args)
	}
	if took := time.Since(began); took > 30*time.Second {
		w.t.Errorf("%v took %v", cmd.Args, took)
	}
	return string(out), err
}

func (w *world) start(id string, stdin io.Reader) string {
	w.t.Helper()
	cmd := w.command(id, "start")
	cmd.Stdin = stdin
	out, err := w.run(cmd)
	if err != nil {
		w.t.Fatalf("start: %v: %s", err, out)
	}
	return out
}

func (w *world) pid(id string) int {
	data, _ := os.ReadFile(filepath.Join(w.bundles, id, "shim.pid"))
	pid, _ := strconv.Atoi(string(data))
	return pid
}

func (w *world) awaitEnd(pid int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := store.AwaitExit(ctx, pid); err != nil {
		w.t.Error(err)
	}
}

func (w *world) client(address string) task.TTRPCTaskService {
	w.t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, scheme))
	if err != nil {
		w.t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	w.t.Cleanup(func() { client.Close() })
	return task.NewTTRPCTaskClient(client)
}

// given asks a server what it was given.
func (w *world) given(address string) (Server, int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	response, err := w.client(address).State(ctx, &task.StateRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	var server Server
	if err := json.Unmarshal([]byte(response.GetID()), &server); err != nil {
		w.t.Fatal(err)
	}
	return server, int(response.GetPid())
}

func (w *world) isGone(address string) {
	w.t.Helper()
	if _, err := os.Stat(strings.TrimPrefix(address, scheme)); !errors.Is(err, fs.ErrNotExist) {
		w.t.Errorf("the socket is left: %v", err)
	}
}

const (
	sandboxOf   = `{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":"pod"}`
	containerOf = `{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"pod"}`
)

func TestStart(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle("pod", sandboxOf)
	address := w.start("pod", nil)
	path, err := socketPath(w.sockets, "/c.sock", "k8s.io", "pod")
	if err != nil || address != scheme+path {
		t.Fatalf("%q, want the address of %s", address, path)
	}
	given, pid := w.given(address)
	if given.Namespace != "k8s.io" || given.ID != "pod" || given.Bundle != dir || given.Address != "/c.sock" ||
		given.TTRPCAddress != "/c.sock.ttrpc" || given.PublishBinary != "/bin/true" || given.StateRoot != filepath.Join(w.root, "k8s.io") || given.Debug {
		t.Errorf("given %+v", given)
	}
	if w.pid("pod") != pid {
		t.Errorf("shim.pid has %d, the server is %d", w.pid("pod"), pid)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "address")); string(data) != address {
		t.Errorf("address has %q, %v", data, err)
	}
	checkProcess(t, pid)

	t.Run("twice", func(t *testing.T) {
		if again := w.start("pod", nil); again != address || w.pid("pod") != pid {
			t.Errorf("%q by %d, want that of %d", again, w.pid("pod"), pid)
		}
	})
	t.Run("container of the pod", func(t *testing.T) {
		member := w.bundle("member", containerOf)
		if got := w.start("member", nil); got != address {
			t.Errorf("%q, want %q", got, address)
		}
		if data, _ := os.ReadFile(filepath.Join(member, "address")); string(data) != address {
			t.Errorf("its bundle has %q", data)
		}
		if w.pid("member") != 0 {
			t.Error("it has a server of its own")
		}
	})
	t.Run("killed, and started again", func(t *testing.T) {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		w.awaitEnd(pid)
		w.bundle("late", containerOf)
		if out, err := w.run(w.command("late", "start")); err == nil || !strings.Contains(out, `sandbox "pod"`) || !strings.Contains(out, path) {
			t.Errorf("a container of a dead pod: %v, %s", err, out)
		}
		if out, err := w.run(w.command("pod", "delete")); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if again := w.start("pod", nil); again != address {
			t.Errorf("%q, want %q", again, address)
		}
		if _, now := w.given(address); now == pid || now != w.pid("pod") {
			t.Errorf("%d serves", now)
		}
	})
	t.Run("ends orderly", func(t *testing.T) {
		_, pid := w.given(address)
		if _, err := w.client(address).Shutdown(t.Context(), &task.ShutdownRequest{}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
			t.Error(err)
		}
		w.awaitEnd(pid)
		w.isGone(address)
	})
}

// checkProcess looks at a server from outside.
func checkProcess(t *testing.T, pid int) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	if session, err := unix.Getsid(pid); session != pid || err != nil {
		t.Errorf("its session is %d, %v", session, err)
	}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	if theirs, err := os.Readlink(proc + "ns/mnt"); theirs == own || err != nil {
		t.Errorf("it shares the mount namespace %s, %v", theirs, err)
	}
	for _, fd := range []string{"0", "1"} {
		if to, err := os.Readlink(proc + "fd/" + fd); to != os.DevNull {
			t.Errorf("its descriptor %s is %s, %v", fd, to, err)
		}
	}
	if to, err := os.Readlink(proc + "fd/2"); filepath.Base(to) != "log" {
		t.Errorf("its descriptor 2 is %s, %v", to, err)
	}
	data, err := os.ReadFile(proc + "environ")
	if err != nil {
		t.Fatal(err)
	}
	if env := strings.Split(string(data), "\x00"); slices.Contains(env, "GOMAXPROCS=2") {
		t.Errorf("it has its caller's environment: %q", env)
	}
	mine, err := oomScore("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err := oomScore(proc + "oom_score_adj"); theirs != min(mine+1, 1000) || err != nil {
		t.Errorf("its OOM score is %d, %v; the caller's %d", theirs, err, mine)
	}
}

func TestStdin(t *testing.T) {
	options := encode(t, typed(t, &runtimeoptions.Options{ConfigPath: "/etc/kata.toml"}))
	announced := &boot.BootstrapParams{
		InstanceID: "pod", Namespace: "k8s.io", ContainerdTtrpcAddress: "/other.ttrpc", LogLevel: boot.LogLevel_LOG_LEVEL_DEBUG,
		Extensions: []*boot.Extension{{Value: typed(t, &runtimeoptions.Options{ConfigPath: "/etc/kata.toml"})}},
	}
	open, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	defer writer.Close()
	tests := map[string]struct {
		stdin  io.Reader
		config string
	}{
		"nothing":              {},
		"empty":                {stdin: strings.NewReader("")},
		"options":              {stdin: bytes.NewReader(options), config: "/etc/kata.toml"},
		"nonsense":             {stdin: strings.NewReader("\xff\x00nonsense")},
		"a pipe left open":     {stdin: open},
		"unknown options":      {stdin: bytes.NewReader(encode(t, typed(t, &boot.BootstrapParams{})))},
		"of another container": {stdin: bytes.NewReader(encode(t, &boot.BootstrapParams{InstanceID: "other", Namespace: "k8s.io"}))},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.bundle("pod", sandboxOf)
			address := w.start("pod", test.stdin)
			if !strings.HasPrefix(address, scheme+w.sockets) {
				t.Fatalf("%q is no raw address", address)
			}
			if given, _ := w.given(address); given.Options.ConfigPath != test.config {
				t.Errorf("given %+v", given)
			}
		})
	}
	t.Run("closed", func(t *testing.T) {
		w := newWorld(t)
		w.bundle("pod", sandboxOf)
		cmd := w.command("pod", "start")
		cmd.Args = append([]string{"sh", "-c", `exec "$0" "$@" <&-`, "/proc/" + strconv.Itoa(os.Getpid()) + "/exe"}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		address, err := w.run(cmd)
		if err != nil {
			t.Fatalf("%v: %s", err, address)
		}
		w.given(address)
	})
	t.Run("BootstrapParams", func(t *testing.T) {
		w := newWorld(t)
		w.bundle("pod", sandboxOf)
		dir := shortDir(t)
		announced.SocketDir = &dir
		var result boot.BootstrapResult
		out := w.start("pod", bytes.NewReader(encode(t, announced)))
		if err := proto.Unmarshal([]byte(out), &result); err != nil {
			t.Fatalf("%v: %q", err, out)
		}
		if result.GetVersion() != 3 || result.GetProtocol() != "ttrpc" || !strings.HasPrefix(result.GetAddress(), scheme+dir) {
			t.Errorf("%+v", &result)
		}
		given, _ := w.given(result.GetAddress())
		if given.Options.ConfigPath != "/etc/kata.toml" || given.TTRPCAddress != "/other.ttrpc" || !given.Debug {
			t.Errorf("given %+v", given)
		}
		// A containerd that has been downgraded asks for a container of it.
		w.sockets = dir
		w.bundle("member", containerOf)
		if address := w.start("member", nil); address != result.GetAddress() {
			t.Errorf("%q, want %q", address, result.GetAddress())
		}
	})
	t.Run("long path", func(t *testing.T) {
		w := newWorld(t)
		w.bundle("pod", sandboxOf)
		dir := filepath.Join(shortDir(t), strings.Repeat("d", 50))
		announced.SocketDir = &dir
		cmd := w.command("pod", "start")
		cmd.Stdin = bytes.NewReader(encode(t, announced))
		if out, err := w.run(cmd); err == nil || !strings.Contains(out, "socket_dir") {
			t.Errorf("%v: %s", err, out)
		}
		if w.pid("pod") != 0 {
			t.Error("a server was started")
		}
	})
}

// Several starts of one id at the same time have one server.
func TestStartAtOnce(t *testing.T) {
	w := newWorld(t)
	w.bundle("pod", sandboxOf)
	var all sync.WaitGroup
	addresses := make([]string, 6)
	for i := range addresses {
		all.Go(func() {
			out, err := w.run(w.command("pod", "start"))
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			addresses[i] = out
		})
	}
	all.Wait()
	if different := slices.Compact(slices.Clone(addresses)); len(different) != 1 {
		t.Fatalf("%q", different)
	}
	if _, pid := w.given(addresses[0]); pid != w.pid("pod") {
		t.Errorf("%d serves, shim.pid has %d", pid, w.pid("pod"))
	}
}

// A start that is killed before its caller has the answer leaves nothing.
func TestStartKilled(t *testing.T) {
	w := newWorld(t)
	w.bundle("pod", sandboxOf)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	full := int(writer.Fd()) // which makes it blocking
	if err := unix.SetNonblock(full, true); err != nil {
		t.Fatal(err)
	}
	for { // until no answer fits
		if _, err := unix.Write(full, make([]byte, 4096)); err != nil {
			break
		}
	}
	if err := unix.SetNonblock(full, false); err != nil {
		t.Fatal(err)
	}
	cmd := w.command("pod", "start")
	cmd.Stdout = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	path, err := socketPath(w.sockets, "/c.sock", "k8s.io", "pod")
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the address in the bundle", func() bool { return exists(filepath.Join(w.bundles, "pod", "address")) })
	_, pid := w.given(scheme + path)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	w.awaitEnd(pid)
	w.isGone(scheme + path)
	address := w.start("pod", nil)
	if _, again := w.given(address); again == pid {
		t.Error("it has not ended")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// await waits for what nothing tells of.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("there is not: %s", what)
		}
	}
}

// A log goes on when containerd is restarted, and a signal ends the server.
func TestLogAndSignals(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle("pod", sandboxOf)
	reader := readFIFO(t, filepath.Join(dir, "log"))
	address := w.start("pod", nil)
	lines := bufio.NewReader(reader)
	if got := line(t, lines); !strings.Contains(got, `level=info msg=serves id=pod`) {
		t.Errorf("%q", got)
	}
	reader.Close()
	_, pid := w.given(address)
	if err := unix.Kill(pid, unix.SIGPIPE); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil { // writes a log that nobody reads
		t.Fatal(err)
	}
	w.given(address)
	lines = bufio.NewReader(readFIFO(t, filepath.Join(dir, "log")))
	if got := line(t, lines); !strings.Contains(got, "goroutines") {
		t.Errorf("%q", got)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.awaitEnd(pid)
	w.isGone(address)
}

func deleteByProgram(t *testing.T, w *world, id string) *task.DeleteResponse {
	t.Helper()
	cmd := w.command(id, "delete")
	var warnings bytes.Buffer
	cmd.Stderr = &warnings
	began := time.Now()
	out, err := cmd.Output()
	if err != nil || warnings.Len() > 0 {
		t.Errorf("%v: %s", err, warnings.String())
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	var response task.DeleteResponse
	if err := proto.Unmarshal(out, &response); err != nil {
		t.Error(err)
	}
	return &response
}

func TestDeleteByProgram(t *testing.T) {
	for name, before := range map[string]func(w *world, pid int){
		"dead": func(w *world, pid int) {
			_ = unix.Kill(pid, unix.SIGKILL)
			w.awaitEnd(pid)
		},
		"stopped":   func(_ *world, pid int) { _ = unix.Kill(pid, unix.SIGSTOP) },
		"reachable": func(*world, int) {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.bundle("pod", sandboxOf)
			address := w.start("pod", nil)
			_, pid := w.given(address)
			before(w, pid)
			for range 2 {
				if got := deleteByProgram(t, w, "pod"); got.GetExitStatus() != 137 {
					t.Errorf("%+v", got)
				}
			}
			if name == "reachable" { // it deletes the container, and may have others
				if _, still := w.given(address); still != pid {
					t.Errorf("%d serves, want %d", still, pid)
				}
				return
			}
			w.awaitEnd(pid)
			w.isGone(address)
			if left, _ := os.ReadDir(filepath.Join(w.root, "k8s.io")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A sandbox of the Sandbox API has no task of its name, and ends all the same.
func TestDeleteOfSandbox(t *testing.T) {
	w := newWorld(t)
	if err := os.Remove(filepath.Join(w.bundle("pod", sandboxOf), "config.json")); err != nil {
		t.Fatal(err)
	}
	address := w.start("pod", nil)
	w.given(address) // it has reserved its entry
	if got := deleteByProgram(t, w, "pod"); got.GetExitStatus() != 137 {
		t.Errorf("%+v", got)
	}
	w.awaitEnd(w.pid("pod"))
	w.isGone(address)
}

// What the host mounts later shows in the server, what the server mounts nowhere
// else; and what the host does not share can be reached in its namespace.
func TestMounts(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with its mount namespace
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	shared, private := t.TempDir(), t.TempDir()
	for dir, propagation := range map[string]uintptr{shared: unix.MS_SHARED, private: unix.MS_PRIVATE} {
		if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // else it goes with the thread
		if err := unix.Mount("", dir, "", propagation, ""); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	w.bundles = filepath.Join(shared, "bundles")
	dir := w.bundle("pod", sandboxOf)
	address := w.start("pod", nil)
	_, pid := w.given(address)
	client := w.client(address)
	theirs := fmt.Sprintf("/proc/%d/root", pid)

	if _, err := client.Pause(t.Context(), &task.PauseRequest{}); err != nil {
		t.Fatal(err)
	}
	if file := filepath.Join(dir, "rootfs", "file"); exists(file) || !exists(theirs+file) {
		t.Errorf("the server's mount: here %v, in its own namespace %v", exists(file), exists(theirs+file))
	}
	for _, volume := range []string{shared, private} {
		volume = filepath.Join(volume, "volume")
		if err := os.Mkdir(volume, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("volume", volume, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(volume, "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if wants := strings.HasPrefix(volume, shared); exists(theirs+file) != wants {
			t.Errorf("%s shows in the server's namespace: %v", file, !wants)
		}
		if _, err := client.Resume(t.Context(), &task.ResumeRequest{ID: file}); err != nil {
			t.Errorf("%s in the caller's namespace: %v", file, err)
		}
	}
	// containerd removes the directory, whatever the server has there.
	if err := os.Remove(filepath.Join(dir, "rootfs")); err != nil {
		t.Error(err)
	}
	_ = unix.Kill(pid, unix.SIGKILL) // here, before the bundles' mount goes
	w.awaitEnd(pid)
}

func TestShimCgroup(t *testing.T) {
	w := newWorld(t)
	w.bundle("pod", sandboxOf)
	name := fmt.Sprintf("/kata-bootstrap-test-%d", os.Getpid())
	made := ""
	for _, dir := range []string{"/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/pids/tasks", "/sys/fs/cgroup/memory/tasks"} {
		group := filepath.Join(filepath.Dir(dir), name)
		if exists(dir) && os.Mkdir(group, 0o755) == nil {
			made = group
			break
		}
	}
	if made == "" {
		t.Skip("no control group can be made here")
	}
	defer func() {
		if err := unix.Rmdir(made); err != nil {
			t.Error(err)
		}
	}()
	options := encode(t, typed(t, &runc.Options{ShimCgroup: name}))
	address := w.start("pod", bytes.NewReader(options))
	_, pid := w.given(address)
	data, err := os.ReadFile(filepath.Join(made, "cgroup.procs"))
	if err != nil || !slices.Contains(strings.Fields(string(data)), strconv.Itoa(pid)) {
		t.Errorf("%d is not in %s: %q, %v", pid, made, data, err)
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	w.awaitEnd(pid)
	await(t, "an empty group", func() bool {
		data, err := os.ReadFile(filepath.Join(made, "cgroup.procs"))
		return err == nil && len(data) == 0
	})
	w.bundle("other", "null")
	cmd := w.command("other", "start")
	cmd.Stdin = bytes.NewReader(encode(t, typed(t, &runc.Options{ShimCgroup: "/no/such/group"})))
	if out, err := w.run(cmd); err == nil || !strings.Contains(out, "ShimCgroup") {
		t.Errorf("a group that is not there: %v, %s", err, out)
	}
	if left, _ := os.ReadDir(w.sockets); len(left) != 1 { // that of the killed one
		t.Errorf("left: %v", left)
	}
}
