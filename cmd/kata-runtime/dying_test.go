package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
	"kata-runtime/virtcontainers/supervisor/api"
)

// TestMain is also a supervisor that dies.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == supervisorCommand {
		if err := dieAsSupervisor(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func dieAsSupervisor() error {
	conn, err := channel.FromFile(os.NewFile(supervisorChannelFD, "channel"))
	if err != nil {
		return err
	}
	var boot supervisor.Boot
	if _, err := conn.Receive(&boot); err != nil {
		return err
	}
	states, err := store.Open(boot.Root)
	if err != nil {
		return err
	}
	entry, err := states.Reserve(boot.ID)
	if err != nil {
		return err
	}
	if boot.ID != early {
		listener, err := net.Listen("unix", entry.Path("supervisor.sock"))
		if err != nil {
			return err
		}
		server, err := ttrpc.NewServer()
		if err != nil {
			return err
		}
		api.RegisterSupervisorService(server, &dyingSupervisor{greets: true})
		go func() { _ = server.Serve(context.Background(), listener) }()
		if err := conn.Send(supervisor.Ready{Token: "token"}); err != nil {
			return err
		}
		var message any
		if _, err := conn.Receive(&message); err != nil {
			return err
		}
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// deadProcess is one that has ended.
func deadProcess(t *testing.T) process {
	t.Helper()
	cmd, start := endedCommand(t)
	return process{cmd.Process.Pid, start}
}

// self is this process.
func self(t *testing.T) process {
	t.Helper()
	start, err := store.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return process{os.Getpid(), start}
}

// recorded makes the entry of a container.
func recorded(t *testing.T, root, id, sandbox string, status virtcontainers.Status, supervisor, standIn process) *store.Entry {
	t.Helper()
	states, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := states.Reserve(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := entry.Save(store.State{
		OCIVersion: oci.SpecVersion, SandboxID: sandbox, Status: status, Bundle: root,
		SupervisorPID: supervisor.pid, SupervisorStartTime: supervisor.start,
		StandInPID: standIn.pid, StandInStartTime: standIn.start,
	}); err != nil {
		t.Fatal(err)
	}
	return entry
}

// dyingSupervisor answers Hello, and ends at any other call; without greeting it
// ends at Hello already.
type dyingSupervisor struct {
	api.SupervisorService // what a test does not need panics

	greets   bool
	listener *dyingListener
}

// dyingListener keeps its connections, to hang up all at once as the kernel does
// for a process that dies.
type dyingListener struct {
	net.Listener

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func (l *dyingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
	}
	return conn, err
}

// end does not let an answer out.
func (l *dyingListener) end() error {
	l.Listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.Close()
	}
	return net.ErrClosed
}

func (s *dyingSupervisor) Hello(context.Context, *api.HelloRequest) (*api.HelloResponse, error) {
	if !s.greets {
		return nil, s.listener.end()
	}
	return &api.HelloResponse{}, nil
}

func (s *dyingSupervisor) StartContainer(context.Context, *api.ContainerRequest) (*api.StartContainerResponse, error) {
	return nil, s.listener.end()
}

func (s *dyingSupervisor) KillContainer(context.Context, *api.KillContainerRequest) (*api.Empty, error) {
	return nil, s.listener.end()
}

func (s *dyingSupervisor) PauseContainer(context.Context, *api.ContainerRequest) (*api.Empty, error) {
	return nil, s.listener.end()
}

func (s *dyingSupervisor) ContainerStats(context.Context, *api.ContainerRequest) (*api.ContainerStatsResponse, error) {
	return nil, s.listener.end()
}

func (s *dyingSupervisor) DeleteContainer(context.Context, *api.DeleteContainerRequest) (*api.DeleteContainerResponse, error) {
	return nil, s.listener.end()
}

// serveDying serves a pod's socket in this process.
func serveDying(t *testing.T, entry *store.Entry, greets bool) {
	t.Helper()
	listener, err := net.Listen("unix", entry.Path("supervisor.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	dying := &dyingListener{Listener: listener}
	api.RegisterSupervisorService(server, &dyingSupervisor{greets: greets, listener: dying})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(context.WithoutCancel(t.Context()), dying)
	}()
	t.Cleanup(func() {
		_ = dying.end()
		<-ended
		_ = server.Close()
	})
}

// shortDir is a directory whose sockets' paths fit into an address.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "") //nolint:usetesting // t.TempDir's are long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// run runs a command line and returns its exit code and its error's text.
func run(t *testing.T, root string, args ...string) (int, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	code := runCommandLine(append([]string{"kata-runtime", "--root", root, "--log", log}, args...))
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	return code, string(data)
}
