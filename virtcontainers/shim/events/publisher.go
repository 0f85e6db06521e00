package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The topics of a task's events.
const (
	TopicCreate      = "/tasks/create"
	TopicStart       = "/tasks/start"
	TopicExecAdded   = "/tasks/exec-added"
	TopicExecStarted = "/tasks/exec-started"
	TopicExit        = "/tasks/exit"
	TopicOOM         = "/tasks/oom"
	TopicPaused      = "/tasks/paused"
	TopicResumed     = "/tasks/resumed"
	TopicDelete      = "/tasks/delete"
)

const (
	// queueSize is how many events wait for a containerd that is away.
	queueSize = 16384
	// callTimeout bounds one try. containerd's own publisher has the same.
	callTimeout = 5 * time.Second
	// Between tries, twice as long each time.
	firstPause = 20 * time.Millisecond
	longPause  = time.Second
	// flushTimeout bounds Close.
	flushTimeout = 10 * time.Second

	// namespaceHeader is how containerd's ttrpc clients name the namespace.
	namespaceHeader = "containerd-namespace-ttrpc"
)

// ErrUnsent says that events were not taken when the publisher closed.
var ErrUnsent = errors.New("containerd has not taken all events")

// Options are what New needs.
type Options struct {
	// Address is a unix socket's path, with or without unix://; empty: nobody wants
	// to know.
	Address string
	// Namespace is the containers' at containerd.
	Namespace string
	Log       *slog.Logger
}

// Publisher sends events to containerd. Make it with New. It is safe for
// concurrent use.
type Publisher struct {
	options Options
	size    int // queueSize

	stop context.CancelFunc // ends the goroutine's waiting
	done chan struct{}      // closed when it has ended

	mu      sync.Mutex // guards what follows
	queue   []*types.Envelope
	kinds   [importances]int // of queue's events, by their importance
	dropped int              // since it was last logged
	closed  bool             // no more is taken
	wake    chan struct{}    // has a token when queue or closed have changed
	pending int              // events that are not answered for: the queue and what is being sent
}

// New starts a publisher. Close must follow.
func New(options Options) *Publisher { return newPublisher(options, queueSize) }

func newPublisher(options Options, size int) *Publisher {
	options.Address = strings.TrimPrefix(options.Address, "unix://")
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{options: options, size: size, stop: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go func() {
		defer close(p.done)
		s := sender{options: options}
		defer s.hangUp()
		p.serve(ctx, &s)
	}()
	return p
}

// Publish sends an event, in its turn. It does not wait. Events of one goroutine
// stay in order.
func (p *Publisher) Publish(topic string, event proto.Message) {
	if p.options.Address == "" {
		p.options.Log.Debug("nobody wants events", "topic", topic)
		return
	}
	data, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		p.options.Log.Error("encode an event", "topic", topic, "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.options.Log.Warn("event after the end", "topic", topic)
		return
	}
	if len(p.queue) >= p.size {
		p.drop()
	}
	envelope := &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: p.options.Namespace, Topic: topic, Event: data,
	}
	p.queue = append(p.queue, envelope)
	p.kinds[importance(envelope)]++
	p.pending++
	p.notify()
}

// notify is called with mu held.
func (p *Publisher) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// drop makes room for an event: the oldest of the least important ones goes; mu is
// held.
func (p *Publisher) drop() {
	least := slices.IndexFunc(p.kinds[:], func(number int) bool { return number > 0 })
	oldest := slices.IndexFunc(p.queue, func(e *types.Envelope) bool { return importance(e) == least })
	p.queue = slices.Delete(p.queue, oldest, oldest+1)
	p.kinds[least]--
	p.pending--
	if p.dropped == 0 {
		p.options.Log.Error("containerd takes no events: the oldest are dropped", "kept", p.size)
	}
	p.dropped++
}

// importances is how many values importance has.
const importances = 3

func importance(event *types.Envelope) int {
	switch event.GetTopic() {
	case TopicExit:
		return 2
	case TopicOOM:
		return 1
	default:
		return 0
	}
}

// Close sends what waits, for as long as ctx allows and no longer than ten seconds,
// and ends. It wraps ErrUnsent when events are left. Idempotent.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.notify()
	p.mu.Unlock()
	timer := time.NewTimer(flushTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-ctx.Done():
	case <-timer.C:
	}
	p.stop()
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending > 0 {
		return fmt.Errorf("%w: %d are left", ErrUnsent, p.pending)
	}
	return nil
}

// serve sends until the publisher is closed and everything is sent, or ctx ends.
func (p *Publisher) serve(ctx context.Context, s *sender) {
	for {
		event, more := p.next()
		if event == nil {
			if !more {
				return
			}
			select {
			case <-p.wake:
			case <-ctx.Done():
				return
			}
			continue
		}
		if !p.deliver(ctx, s, event) {
			return
		}
		p.mu.Lock()
		p.pending--
		if p.dropped > 0 {
			p.options.Log.Error("events were dropped", "number", p.dropped)
			p.dropped = 0
		}
		p.mu.Unlock()
	}
}

func (p *Publisher) next() (event *types.Envelope, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.queue = nil // lets go of the memory
		return nil, !p.closed
	}
	event = p.queue[0]
	p.queue[0] = nil
	p.queue = p.queue[1:]
	p.kinds[importance(event)]--
	return event, true
}

// deliver tries until containerd has answered. It returns false when ctx ends.
func (p *Publisher) deliver(ctx context.Context, s *sender, event *types.Envelope) bool {
	pause := firstPause
	for failures := 0; ; failures++ {
		err := s.send(ctx, event)
		switch {
		case err == nil:
			if failures > 1 {
				p.options.Log.Info("containerd takes events again", "tries", failures)
			}
			return true
		case status.Code(err) == codes.InvalidArgument:
			p.options.Log.Error("containerd refuses an event", "topic", event.GetTopic(), "error", err)
			return true
		case ctx.Err() != nil:
			return false
		}
		switch failures {
		case 0: // a connection that was idle: containerd may be back already
			continue
		case 1:
			p.options.Log.Warn("containerd takes no events: will try again", "address", p.options.Address, "error", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
		pause = min(2*pause, longPause)
	}
}

// sender is the connection to containerd, when there is one.
type sender struct {
	options Options
	client  *ttrpc.Client
}

// send makes one try. After a failure of the connection, or no answer, the next try
// makes a new one: a late answer must not be taken for another event's.
func (s *sender) send(ctx context.Context, event *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if s.client == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.options.Address)
		if err != nil {
			return fmt.Errorf("connect to containerd's events: %w", err)
		}
		s.client = ttrpc.NewClient(conn)
	}
	client := s.client
	stop := context.AfterFunc(ctx, func() { client.Close() }) // ttrpc does not look at ctx while it writes
	defer stop()
	call := ttrpc.WithMetadata(ctx, ttrpc.MD{namespaceHeader: []string{s.options.Namespace}})
	_, err := eventsapi.NewTTRPCEventsClient(client).Forward(call, &eventsapi.ForwardRequest{Envelope: event})
	if err == nil {
		return nil
	}
	if _, answered := status.FromError(err); !answered || ctx.Err() != nil {
		s.hangUp()
	}
	return fmt.Errorf("forward an event: %w", err)
}

func (s *sender) hangUp() {
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}
