//go:build vm

package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	sandbox "github.com/containerd/containerd/api/runtime/sandbox/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/store"
)

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
