package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	events "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// containerd is an events service that can be started again on its socket. It
// remembers what it has answered for.
type containerd struct {
	t       *testing.T
	address string
	answer  func(*types.Envelope) error // before an event is taken; nil: nothing

	mu     sync.Mutex
	server *ttrpc.Server
	got    []*types.Envelope
	came   chan struct{} // has a token when got has grown
}

func newContainerd(t *testing.T) *containerd {
	c := &containerd{t: t, address: filepath.Join(t.TempDir(), "containerd.sock.ttrpc"), came: make(chan struct{}, 1)}
	t.Cleanup(c.stop)
	return c
}

func (c *containerd) start() {
	c.t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.server = server
	c.mu.Unlock()
	_ = os.Remove(c.address)
	listener, err := net.Listen("unix", c.address)
	if err != nil {
		c.t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(server, service{c, server})
	go func() { _ = server.Serve(context.Background(), listener) }()
}

func (c *containerd) stop() {
	c.mu.Lock()
	server := c.server
	c.server = nil
	c.mu.Unlock()
	if server != nil {
		server.Close()
	}
}

// service is a containerd from one start to its stop.
type service struct {
	*containerd
	server *ttrpc.Server
}

func (c service) Forward(ctx context.Context, request *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	if c.answer != nil {
		if err := c.answer(request.GetEnvelope()); err != nil {
			return nil, err
		}
	}
	metadata, _ := ttrpc.GetMetadata(ctx)
	if got, _ := metadata.Get(namespaceHeader); !slices.Equal(got, []string{"k8s.io"}) {
		c.t.Errorf("the call names the namespaces %q", got)
	}
	c.mu.Lock()
	if c.containerd.server != c.server {
		c.mu.Unlock()
		return nil, errors.New("stopped") // what is left of it takes nothing
	}
	c.got = append(c.got, request.GetEnvelope())
	c.mu.Unlock()
	select {
	case c.came <- struct{}{}:
	default:
	}
	return &emptypb.Empty{}, nil
}

// ids returns the container ids of the events that came.
func (c *containerd) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, e := range c.got {
		var id string
		event, err := typeurl.UnmarshalAny(e.GetEvent())
		if err != nil {
			c.t.Error(err)
			continue
		}
		switch event := event.(type) {
		case *events.TaskExit:
			id = event.GetContainerID()
		case *events.TaskStart:
			id = event.GetContainerID()
		case *events.TaskOOM:
			id = event.GetContainerID()
		default:
			c.t.Errorf("a %T", event)
		}
		ids = append(ids, id)
	}
	return ids
}

// await returns when so many events have come.
func (c *containerd) await(number int) {
	for len(c.ids()) < number {
		<-c.came
	}
}

func (p *Publisher) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pending
}

type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newPublisherTo(t *testing.T, address string, size int) (*Publisher, *log) {
	logged := &log{}
	p := newPublisher(Options{
		Address: address, Namespace: "k8s.io",
		Log: slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, size)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.Close(ctx)
	})
	return p, logged
}

func exit(id string) (string, *events.TaskExit) {
	return TopicExit, &events.TaskExit{ContainerID: id}
}

func start(id string) (string, *events.TaskStart) {
	return TopicStart, &events.TaskStart{ContainerID: id}
}

func oom(id string) (string, *events.TaskOOM) {
	return TopicOOM, &events.TaskOOM{ContainerID: id}
}

func numbers(from, to int) []string {
	var ids []string
	for i := from; i < to; i++ {
		ids = append(ids, fmt.Sprint(i))
	}
	return ids
}

func TestEnvelope(t *testing.T) {
	c := newContainerd(t)
	c.start()
	p, _ := newPublisherTo(t, "unix://"+c.address, queueSize)
	before := time.Now()
	p.Publish(TopicExit, &events.TaskExit{ContainerID: "c", ID: "e", Pid: 7, ExitStatus: 3})
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(c.got) != 1 {
		t.Fatalf("%d events came", len(c.got))
	}
	e := c.got[0]
	if e.GetTopic() != "/tasks/exit" || e.GetNamespace() != "k8s.io" || e.GetEvent().GetTypeUrl() != "containerd.events.TaskExit" {
		t.Errorf("envelope %v", e)
	}
	if at := e.GetTimestamp().AsTime(); at.Before(before) || at.After(time.Now()) {
		t.Errorf("timestamp %v", at)
	}
	event, err := typeurl.UnmarshalAny(e.GetEvent())
	if got, ok := event.(*events.TaskExit); err != nil || !ok || got.GetID() != "e" || got.GetExitStatus() != 3 || got.GetPid() != 7 {
		t.Errorf("event %v, %v", event, err)
	}
	p.Publish(exit("late"))
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNoAddress(t *testing.T) {
	p, logged := newPublisherTo(t, "", queueSize)
	p.Publish(exit("c"))
	if err := p.Close(t.Context()); err != nil || !strings.Contains(logged.String(), "level=DEBUG") {
		t.Errorf("%v; logged %q", err, logged)
	}
}

// containerd is away at the start, and restarted in the middle, again and again.
func TestRestarts(t *testing.T) {
	const number, restarts = 2000, 5
	c := newContainerd(t)
	p, _ := newPublisherTo(t, c.address, queueSize)
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := range number {
			p.Publish(exit(fmt.Sprint(i)))
			if i%(number/20) == 0 {
				<-time.After(5 * time.Millisecond)
			}
		}
	})
	for i := range restarts {
		<-time.After(20 * time.Millisecond)
		c.start()
		c.await((i + 1) * number / 20)
		c.stop()
	}
	c.start()
	publishing.Wait()
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := c.ids()
	// The server may have been stopped between taking an event and answering.
	twice := len(got) - len(slices.Compact(slices.Clone(got)))
	if twice > restarts || !slices.Equal(slices.Compact(got), numbers(0, number)) {
		t.Errorf("%d events came, %d of them twice, or out of order", len(got), twice)
	}
}

// A connection that ended while nothing was sent costs no event, and no pause.
func TestRestartWhileIdle(t *testing.T) {
	c := newContainerd(t)
	p, logged := newPublisherTo(t, c.address, queueSize)
	for i := range 3 {
		c.start()
		p.Publish(exit(fmt.Sprint(i)))
		c.await(i + 1)
		for p.waiting() > 0 { // the answer is on its way
			<-time.After(time.Millisecond)
		}
		c.stop()
	}
	if got := c.ids(); !slices.Equal(got, numbers(0, 3)) {
		t.Errorf("came: %v", got)
	}
	if strings.Contains(logged.String(), "level=WARN") {
		t.Error(logged)
	}
}

// A server that fails is asked again; one that refuses an event as malformed is not.
func TestErrors(t *testing.T) {
	c := newContainerd(t)
	var failures int
	c.answer = func(e *types.Envelope) error {
		if e.GetTopic() == TopicStart {
			return status.Error(codes.InvalidArgument, "malformed")
		}
		if failures++; failures < 4 {
			return status.Error(codes.Unavailable, "not yet")
		}
		return nil
	}
	c.start()
	p, logged := newPublisherTo(t, c.address, queueSize)
	p.Publish(start("refused"))
	p.Publish(exit("0"))
	p.Publish(exit("1"))
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.ids(); !slices.Equal(got, numbers(0, 2)) {
		t.Errorf("came: %v", got)
	}
	if text := logged.String(); !strings.Contains(text, "refuses an event") || !strings.Contains(text, "not yet") ||
		!strings.Contains(text, "takes events again") {
		t.Error(text)
	}
}

// The queue has a bound: exits stay, of OOM kills the newest, of the others what
// fits.
func TestFullQueue(t *testing.T) {
	c := newContainerd(t)
	taken, goOn := make(chan struct{}, 100), make(chan struct{})
	c.answer = func(*types.Envelope) error {
		taken <- struct{}{}
		<-goOn
		return nil
	}
	c.start()
	p, logged := newPublisherTo(t, c.address, 6)
	p.Publish(start("sent"))
	<-taken // it is out of the queue, and everything else in it
	p.Publish(exit("0"))
	for i := range 10 {
		p.Publish(start(fmt.Sprint("s", i)))
	}
	p.Publish(exit("1"))
	for i := range 10 {
		p.Publish(oom(fmt.Sprint("o", i)))
	}
	p.Publish(exit("2"))
	close(goOn)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := c.ids()
	if want := []string{"sent", "0", "1", "o7", "o8", "o9", "2"}; !slices.Equal(got, want) {
		t.Errorf("came: %v, want %v", got, want)
	}
	if !strings.Contains(logged.String(), "dropped") {
		t.Error(logged)
	}
}

// Close waits no longer than it may, and says what is left.
func TestCloseWithoutContainerd(t *testing.T) {
	c := newContainerd(t)
	p, _ := newPublisherTo(t, c.address, queueSize)
	p.Publish(exit("0"))
	p.Publish(exit("1"))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); !errors.Is(err, ErrUnsent) || !strings.Contains(err.Error(), "2 are left") {
		t.Error(err)
	}
}

// One that accepts and never answers keeps neither Publish nor Close.
func TestSilentContainerd(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p, _ := newPublisherTo(t, listener.Addr().String(), queueSize)
	for i := range 100 {
		p.Publish(exit(fmt.Sprint(i)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); !errors.Is(err, ErrUnsent) {
		t.Error(err)
	}
}

func BenchmarkPublish(b *testing.B) {
	p := New(Options{Address: filepath.Join(b.TempDir(), "nobody"), Log: slog.New(slog.DiscardHandler)})
	for b.Loop() {
		p.Publish(exit("container"))
	}
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	_ = p.Close(ctx)
}
