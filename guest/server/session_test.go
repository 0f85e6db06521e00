package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/container"
	"kata-runtime/guest/network"
	"kata-runtime/guest/protocol"
	"kata-runtime/guest/stream"
)

// serve runs an agent on unix sockets until the test ends, and returns the
// socket of its calls and a channel that gives Run's result.
func serve(t *testing.T) (socket string, done chan error) {
	t.Helper()
	dir := t.TempDir()
	listen := func(name string) net.Listener {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ctx, cancel := context.WithCancel(context.Background())
	announced := make(chan struct{})
	done = make(chan error, 1)
	cfg := Config{
		Log: slog.New(slog.DiscardHandler), Version: "test", StateDir: filepath.Join(dir, "state"),
		Agent: listen("agent"), Streams: listen("streams"), Network: noNetwork{},
		Announce: func(context.Context) error {
			close(announced)
			return errors.New("a host that does not listen")
		},
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		done <- Run(ctx, cfg)
	}()
	<-announced
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return filepath.Join(dir, "agent"), done
}

func dial(t *testing.T, socket string) protocol.AgentService {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { client.Close() })
	return protocol.NewAgentClient(client)
}

func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want code %v with %q", err, code, text)
	}
}

func TestHelloComesFirstOnEachConnection(t *testing.T) {
	socket, _ := serve(t)
	for range 2 {
		client := dial(t, socket)
		_, err := client.ListProcesses(t.Context(), &protocol.ContainerRequest{ContainerId: "x"})
		wantCode(t, err, codes.FailedPrecondition, "Hello")
		_, err = client.Hello(t.Context(), &protocol.HelloRequest{Version: protocol.Version + 1})
		wantCode(t, err, codes.FailedPrecondition, "version")
		_, err = client.ListProcesses(t.Context(), &protocol.ContainerRequest{ContainerId: "x"})
		wantCode(t, err, codes.FailedPrecondition, "Hello")
		hello, err := client.Hello(t.Context(), &protocol.HelloRequest{Version: protocol.Version})
		if err != nil || hello.GetVersion() != protocol.Version || hello.GetKernelRelease() == "" || hello.GetAgentVersion() != "test" {
			t.Fatalf("hello %v, %v", hello, err)
		}
		_, err = client.ListProcesses(t.Context(), &protocol.ContainerRequest{ContainerId: "x"})
		wantCode(t, err, codes.NotFound, `container "x" does not exist`)
	}
}

func greeted(t *testing.T) protocol.AgentService {
	t.Helper()
	socket, _ := serve(t)
	client := dial(t, socket)
	if _, err := client.Hello(t.Context(), &protocol.HelloRequest{Version: protocol.Version}); err != nil {
		t.Fatal(err)
	}
	return client
}

func TestSandboxIsCreatedOnce(t *testing.T) {
	client := greeted(t)
	if _, err := client.CreateSandbox(t.Context(), &protocol.CreateSandboxRequest{SandboxId: "s"}); err != nil {
		t.Fatal(err)
	}
	_, err := client.CreateSandbox(t.Context(), &protocol.CreateSandboxRequest{SandboxId: "s"})
	wantCode(t, err, codes.FailedPrecondition, "created before")
	_, err = client.CreateSandbox(t.Context(), &protocol.CreateSandboxRequest{Shares: []*protocol.Share{{Fstype: "nfs"}}})
	wantCode(t, err, codes.FailedPrecondition, "created before")
}

func TestBadRequests(t *testing.T) {
	client := greeted(t)
	ctx := t.Context()
	create := func(spec string) error {
		_, err := client.CreateContainer(ctx, &protocol.CreateContainerRequest{ContainerId: "c", SpecJson: []byte(spec)})
		return err
	}
	wantCode(t, create("{"), codes.InvalidArgument, "specification")
	wantCode(t, create("{}"), codes.InvalidArgument, "root.path")
	wantCode(t, create(`{"root":{"path":"/x"}}`), codes.InvalidArgument, "process")
	wantCode(t, create(`{"root":{"path":"/x"},"process":{"cwd":"/"}}`), codes.InvalidArgument, "process.args")
	wantCode(t, create(`{"root":{"path":"/x"},"process":{"args":["a"],"cwd":"b"}}`), codes.InvalidArgument, "process.cwd")
	_, err := client.CreateContainer(ctx, &protocol.CreateContainerRequest{
		ContainerId: "c", SpecJson: []byte(`{"root":{"path":"/x"},"process":{"args":["a"],"cwd":"/"}}`),
		Storages: []*protocol.Storage{{Driver: "floppy", MountPoint: "/y"}},
	})
	wantCode(t, err, codes.InvalidArgument, "floppy")
	_, err = client.ExecProcess(ctx, &protocol.ExecProcessRequest{ContainerId: "c", ProcessId: "e", ProcessJson: []byte("{}")})
	wantCode(t, err, codes.NotFound, "does not exist")
	_, err = client.WaitProcess(ctx, &protocol.ProcessRequest{ContainerId: "c"})
	wantCode(t, err, codes.NotFound, "does not exist")
}

func TestWaitingCallsEndWithTheirConnection(t *testing.T) {
	client := greeted(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.NextOOM(ctx, &protocol.Empty{}); err == nil {
		t.Fatal("NextOOM answered")
	}
}

func TestToStatus(t *testing.T) {
	for _, test := range []struct {
		err  error
		code codes.Code
	}{
		{nil, codes.OK},
		{fmt.Errorf("x: %w", container.ErrInvalid), codes.InvalidArgument},
		{fmt.Errorf("x: %w", container.ErrNotFound), codes.NotFound},
		{fmt.Errorf("x: %w", container.ErrExists), codes.AlreadyExists},
		{fmt.Errorf("x: %w", container.ErrNotRunning), codes.FailedPrecondition},
		{fmt.Errorf("x: %w", stream.ErrNotConnected), codes.FailedPrecondition},
		{fmt.Errorf("x: %w", context.Canceled), codes.Canceled},
		{errors.New("the kernel said no"), codes.Unknown},
		{status.Error(codes.Aborted, "kept"), codes.Aborted},
	} {
		if got := status.Code(toStatus(test.err)); got != test.code {
			t.Errorf("%v becomes %v, want %v", test.err, got, test.code)
		}
	}
}

// noNetwork has no NICs.
type noNetwork struct{}

func (noNetwork) AwaitPlugged(context.Context, [][]byte) error { return nil }

func (noNetwork) Park([][]byte) error { return nil }

func (noNetwork) Set(context.Context, *protocol.SetNetworkRequest) error {
	return network.ErrInvalid
}

// TestRestoredNeedsEntropy: copies of one guest draw the same numbers until they are given
// some of their own.
func TestRestoredNeedsEntropy(t *testing.T) {
	socket, _ := serve(t)
	client := dial(t, socket)
	if _, err := client.Hello(t.Context(), &protocol.HelloRequest{Version: protocol.Version}); err != nil {
		t.Fatal(err)
	}
	_, err := client.CreateSandbox(t.Context(), &protocol.CreateSandboxRequest{SandboxId: "pod", Restored: true})
	wantCode(t, err, codes.FailedPrecondition, "no entropy")
}
