package virtcontainers_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/share"
)

const token = "0123456789abcdef"

func TestContainerRunsToItsEnd(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := startSandbox(t, guest)
	c, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{
		ID: "c1", IO: virtcontainers.IO{Stdout: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Status() != virtcontainers.StatusCreated {
		t.Errorf("status %s after the creation", c.Status())
	}
	if err := c.Delete(t.Context()); !errors.Is(err, virtcontainers.ErrState) {
		t.Errorf("delete a created container: %v, want ErrState", err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); !errors.Is(err, virtcontainers.ErrState) {
		t.Errorf("start twice: %v, want ErrState", err)
	}
	guest.exit("c1", 7)
	output, err := io.ReadAll(c.Init().Streams.Stdout)
	if err != nil || string(output) != "output" {
		t.Errorf("stdout %q, %v", output, err)
	}
	<-c.Init().Done()
	if code := c.Init().Exit().Code; code != 7 || c.Status() != virtcontainers.StatusStopped {
		t.Errorf("exit code %d, status %s, %v", code, c.Status(), c.Init().Exit().Reason)
	}
	if err := c.Signal(t.Context(), syscall.SIGTERM, false); !errors.Is(err, virtcontainers.ErrNotRunning) {
		t.Errorf("signal a stopped container: %v, want ErrNotRunning", err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := sandbox.Container("c1"); !errors.Is(err, virtcontainers.ErrNotFound) {
		t.Errorf("look up a deleted container: %v, want ErrNotFound", err)
	}
}

func TestAnIDIsTakenOnce(t *testing.T) {
	sandbox := startSandbox(t, newFakeGuest(t))
	if _, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"})
	if !errors.Is(err, virtcontainers.ErrExists) {
		t.Errorf("second container: %v, want ErrExists", err)
	}
}

// What is in the share for the creation alone is there no longer than that.
func TestTemporaryMountsAreDetached(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := startSandbox(t, guest)
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1", Mounts: []share.Mount{
		{Name: share.Rootfs, Tree: emptyFile(t)}, {Name: share.Memory(1), Tree: emptyFile(t), Temporary: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"c1/mounts/memory-1"}, guest.machine.share.detached); diff != "" {
		t.Error(diff)
	}
}

func emptyFile(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestNothingIsMadeInAMachineThatHasEnded(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := startSandbox(t, guest)
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "late"})
	if !errors.Is(err, virtcontainers.ErrMachineEnded) {
		t.Errorf("error %v, want ErrMachineEnded", err)
	}
	if n := guest.machine.share.count(); n != 0 || sandbox.Containers() != 0 {
		t.Errorf("%d shares and %d containers are left", n, sandbox.Containers())
	}
}

func TestTheGuestsRefusalLeavesNothing(t *testing.T) {
	guest := newFakeGuest(t)
	guest.createErr = status.Error(codes.Unknown, `exec: "nope": executable file not found in $PATH`)
	sandbox := startSandbox(t, guest)
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"})
	var stage *virtcontainers.StageError
	if !errors.As(err, &stage) || stage.Stage != virtcontainers.StageCreateContainer {
		t.Fatalf("error %v, want one of the stage %q", err, virtcontainers.StageCreateContainer)
	}
	if !strings.Contains(err.Error(), "executable file not found") || strings.Contains(err.Error(), "rpc error") {
		t.Errorf("text %q", err)
	}
	if sandbox.Containers() != 0 || guest.machine.share.count() != 0 {
		t.Errorf("%d containers and %d shares are left", sandbox.Containers(), guest.machine.share.count())
	}
}

func TestAMachineThatEndsDuringTheBoot(t *testing.T) {
	guest := newFakeGuest(t)
	guest.silent = true
	sandbox := newSandbox(t, guest)
	sandbox.Start()
	<-guest.machine.started
	guest.machine.fail(&hypervisor.ExitError{VMM: "qemu", Status: "exit status 1", Stderr: "no such kernel"})
	err := sandbox.Ready(t.Context())
	var stage *virtcontainers.StageError
	if !errors.As(err, &stage) || stage.Stage != virtcontainers.StageBootKernel {
		t.Fatalf("error %v, want one of the stage %q", err, virtcontainers.StageBootKernel)
	}
	for _, want := range []string{"no such kernel", "last words"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not quote %q", err, want)
		}
	}
}

// An error that can quote nothing says how to learn more.
func TestAKernelThatSaysNothing(t *testing.T) {
	guest := newFakeGuest(t)
	guest.silent = true
	sandbox := newSandbox(t, guest)
	guest.machine.mute = true
	sandbox.Start()
	<-guest.machine.started
	guest.machine.fail(hypervisor.ErrGuestReset)
	err := sandbox.Ready(t.Context())
	if !errors.Is(err, hypervisor.ErrGuestReset) || !strings.Contains(err.Error(), `kernel_params = "debug"`) {
		t.Errorf("error %v", err)
	}
}

func TestAGuestThatNeverAnswers(t *testing.T) {
	guest := newFakeGuest(t)
	guest.silent = true
	guest.bootTimeout = time.Millisecond
	sandbox := startedSandbox(t, guest)
	err := sandbox.Ready(t.Context())
	if err == nil || !strings.Contains(err.Error(), "did not answer within 1ms") {
		t.Errorf("error %v", err)
	}
}

func TestTheMachinesEndIsTheContainers(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := startSandbox(t, guest)
	c, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	guest.machine.fail(&hypervisor.ExitError{VMM: "qemu", Status: "signal: killed"})
	<-guest.machine.stopped // without being asked to: a part of it may have lived on
	<-c.Init().Done()
	exit := c.Init().Exit()
	if exit.Code != 137 || !errors.Is(exit.Reason, virtcontainers.ErrMachineEnded) {
		t.Errorf("exit %d, %v", exit.Code, exit.Reason)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Errorf("delete after the machine's end: %v", err)
	}
}

func TestStopWithoutStart(t *testing.T) {
	sandbox := newSandbox(t, newFakeGuest(t))
	for range 2 {
		if err := sandbox.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func newSandbox(t *testing.T, guest *fakeGuest) *virtcontainers.Sandbox {
	t.Helper()
	sandbox := virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
		ID: "pod", Machine: guest.machine, Share: &guest.machine.share, Token: token,
		BootTimeout: guest.bootTimeout, Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		if err := sandbox.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return sandbox
}

func startedSandbox(t *testing.T, guest *fakeGuest) *virtcontainers.Sandbox {
	t.Helper()
	sandbox := newSandbox(t, guest)
	sandbox.Start()
	return sandbox
}

func startSandbox(t *testing.T, guest *fakeGuest) *virtcontainers.Sandbox {
	t.Helper()
	sandbox := startedSandbox(t, guest)
	if err := sandbox.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return sandbox
}

// fakeGuest is an agent without a guest: it serves the real protocol, and what
// its containers do is up to the test.
type fakeGuest struct {
	protocol.AgentService // what a test does not need panics

	machine     *fakeMachine
	silent      bool // never report that it is ready
	createErr   error
	updateErr   error
	online      hypervisor.Size // what the guest was asked to bring on line
	bootTimeout time.Duration
	removeErr   error
	destroyErr  error

	// deaf: the guest takes no more bytes of the agent's connection.
	deaf atomic.Bool
	// pausing, if not nil, is what PauseContainer waits for, with pauses told first.
	pauses, pausing chan struct{}
	// starting, if not nil, is closed when StartContainer, which then does not
	// answer, is called.
	starting chan struct{}
	// execing, if not nil, is what ExecProcess waits for, with execs told first.
	execs, execing chan struct{}

	ooms      chan string // answers of NextOOM, taken one by one
	oomEvents uint64      // what WaitProcess tells, set before the exit

	mu      sync.Mutex // guards what follows
	exits   map[string]chan uint32
	stdouts map[string]net.Conn
	agent   net.Conn // the agent's end of its connection

	created   *protocol.CreateSandboxRequest
	forwarded []uint16 // ports of loopback that were asked for
}

func newFakeGuest(t *testing.T) *fakeGuest {
	t.Helper()
	guest := &fakeGuest{
		ooms:        make(chan string),
		bootTimeout: time.Minute, exits: make(map[string]chan uint32), stdouts: make(map[string]net.Conn),
	}
	guest.machine = &fakeMachine{
		guest: guest, started: make(chan struct{}), ended: make(chan struct{}), stopped: make(chan struct{}),
		ready: make(chan net.Conn, 1),
	}
	return guest
}

func (g *fakeGuest) exit(id string, code uint32) {
	g.mu.Lock()
	stdout, exit := g.stdouts[id], g.exits[id]
	g.mu.Unlock()
	g.machine.group.Go(func() { // a pipe's write waits for its reader
		_, _ = stdout.Write([]byte("output"))
		stdout.Close()
	})
	exit <- code
}

func (g *fakeGuest) Hello(context.Context, *protocol.HelloRequest) (*protocol.HelloResponse, error) {
	return &protocol.HelloResponse{Version: protocol.Version}, nil
}

func (g *fakeGuest) CreateSandbox(_ context.Context, r *protocol.CreateSandboxRequest) (*protocol.CreateSandboxResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.created = r
	return &protocol.CreateSandboxResponse{}, nil
}

func (g *fakeGuest) DestroySandbox(context.Context, *protocol.DestroySandboxRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, g.destroyErr
}

func (g *fakeGuest) CreateContainer(_ context.Context, r *protocol.CreateContainerRequest) (*protocol.Empty, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.exits[r.GetContainerId()] = make(chan uint32, 1)
	return &protocol.Empty{}, g.createErr
}

func (g *fakeGuest) StartContainer(ctx context.Context, _ *protocol.ContainerRequest) (*protocol.Empty, error) {
	if g.starting != nil {
		close(g.starting)
		<-ctx.Done()
	}
	return &protocol.Empty{}, nil
}

func (g *fakeGuest) ExecProcess(context.Context, *protocol.ExecProcessRequest) (*protocol.Empty, error) {
	if g.execing != nil {
		g.execs <- struct{}{}
		<-g.execing
	}
	return &protocol.Empty{}, nil
}

func (g *fakeGuest) PauseContainer(context.Context, *protocol.ContainerRequest) (*protocol.Empty, error) {
	if g.pausing != nil {
		g.pauses <- struct{}{}
		<-g.pausing
	}
	return &protocol.Empty{}, nil
}

func (g *fakeGuest) ResumeContainer(context.Context, *protocol.ContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (g *fakeGuest) RemoveContainer(context.Context, *protocol.ContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, g.removeErr
}

// end ends a container that has no output.
func (g *fakeGuest) end(id string, code uint32) {
	g.mu.Lock()
	exit := g.exits[id]
	g.mu.Unlock()
	exit <- code
}

// hangUp ends the agent's connection.
func (g *fakeGuest) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.agent.Close()
}

func (g *fakeGuest) WaitProcess(ctx context.Context, r *protocol.ProcessRequest) (*protocol.WaitProcessResponse, error) {
	g.mu.Lock()
	exit := g.exits[r.GetContainerId()]
	g.mu.Unlock()
	select {
	case code := <-exit:
		return &protocol.WaitProcessResponse{ExitCode: code, OomEvents: g.oomEvents}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *fakeGuest) NextOOM(ctx context.Context, _ *protocol.Empty) (*protocol.OOMEvent, error) {
	select {
	case id := <-g.ooms:
		return &protocol.OOMEvent{ContainerId: id}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stream accepts a stream's connection.
func (g *fakeGuest) stream(conn net.Conn) {
	header, err := protocol.ReadStreamHeader(conn)
	if err != nil {
		conn.Close()
		return
	}
	g.mu.Lock()
	g.stdouts[header.Container] = conn
	g.mu.Unlock()
	_, _ = conn.Write([]byte{protocol.StreamAccepted})
}

// forward refuses a connection that was made to loopback, and notes its port.
func (g *fakeGuest) forward(conn net.Conn) {
	defer conn.Close()
	header, err := relay.ReadForwardHeader(conn)
	if err != nil {
		return
	}
	g.mu.Lock()
	g.forwarded = append(g.forwarded, header.Port)
	g.mu.Unlock()
	_, _ = conn.Write([]byte{relay.Refused})
}

// fakeMachine connects a sandbox to a fakeGuest by pipes.
type fakeMachine struct {
	guest   *fakeGuest
	share   fakeShare
	started chan struct{}
	ready   chan net.Conn
	stuck   bool // Start returns only with the machine's end
	mute    bool // nothing on the console

	stopping sync.Once
	stopped  chan struct{} // closed by Stop

	once  sync.Once
	ended chan struct{}
	cause error
	group sync.WaitGroup

	mu        sync.Mutex // guards what follows
	size      hypervisor.Size
	resizeErr error
}

func (m *fakeMachine) fail(cause error) {
	m.once.Do(func() {
		m.cause = cause
		close(m.ended)
	})
}

func (m *fakeMachine) Start(context.Context) error {
	if !m.guest.silent {
		ours, theirs := net.Pipe()
		m.ready <- theirs
		m.group.Go(func() {
			_, _ = ours.Write([]byte(token + "\n"))
			ours.Close()
		})
	}
	close(m.started)
	if m.stuck {
		<-m.ended
		return hypervisor.ErrEnded
	}
	return nil
}

func (m *fakeMachine) Wait(ctx context.Context) error {
	select {
	case <-m.ended:
		return m.cause
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *fakeMachine) Stop(context.Context) error {
	m.fail(nil)
	m.group.Wait()
	m.stopping.Do(func() { close(m.stopped) })
	return nil
}

func (m *fakeMachine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	ours, theirs := net.Pipe()
	if port == protocol.ForwardPort {
		m.group.Go(func() { m.guest.forward(theirs) })
		return ours, nil
	}
	if port == protocol.StreamPort {
		m.group.Go(func() { m.guest.stream(theirs) })
		return ours, nil
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	protocol.RegisterAgentService(server, m.guest)
	listener := &pipeListener{conns: make(chan net.Conn, 1), closed: m.ended}
	listener.conns <- theirs
	m.group.Go(func() { _ = server.Serve(context.WithoutCancel(ctx), listener) })
	m.group.Go(func() {
		<-m.ended
		_ = server.Close()
	})
	m.guest.mu.Lock()
	defer m.guest.mu.Unlock()
	m.guest.agent = theirs
	return &creditConn{Conn: ours, guest: m.guest, closed: make(chan struct{})}, nil
}

// creditConn is the host's end of the agent's connection.
type creditConn struct {
	net.Conn
	guest  *fakeGuest
	once   sync.Once
	closed chan struct{}
}

// Write waits for the guest to take what it is sent, as a vsock's does.
func (c *creditConn) Write(p []byte) (int, error) {
	if c.guest.deaf.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *creditConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (m *fakeMachine) Ready() net.Listener {
	return &pipeListener{conns: m.ready, closed: make(chan struct{})}
}

func (m *fakeMachine) Listen(port uint32) (hypervisor.Listener, error) {
	return &pipeListener{conns: m.ready, closed: make(chan struct{}), port: port}, nil
}

func (m *fakeMachine) ConsoleTail() string {
	if m.mute {
		return ""
	}
	return "last words"
}
func (m *fakeMachine) Share() *protocol.Share { return &protocol.Share{} }
func (m *fakeMachine) AwaitConsole(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

type pipeListener struct {
	port   uint32
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() {
		select {
		case <-l.closed:
		default:
			close(l.closed)
		}
	})
	return nil
}

func (l *pipeListener) GuestPort() uint32 { return l.port }

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// fakeShare counts the containers that are shared.
type fakeShare struct {
	mu         sync.Mutex // guards what follows
	containers map[string]bool
	detached   []string
}

func (s *fakeShare) Detach(container, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.containers[container] {
		return errors.New("detached before it was shared, or after")
	}
	s.detached = append(s.detached, container+"/"+name)
	return nil
}

func (s *fakeShare) Add(container string, _ []share.Mount) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers == nil {
		s.containers = make(map[string]bool)
	}
	s.containers[container] = true
	return nil
}

func (s *fakeShare) Remove(container string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, container)
	return nil
}

func (s *fakeShare) Close() error { return nil }

func (s *fakeShare) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.containers)
}
