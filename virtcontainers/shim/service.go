package shim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/shim/taskerror"
)

// answerTimeout bounds how long an ending shim waits for containerd to take its
// answers.
const answerTimeout = 3 * time.Second

// goodbyeTimeout bounds how long a shim that containerd has asked to end waits for
// containerd to close its connections.
const goodbyeTimeout = time.Second

var (
	// errStopping is why calls end, and fail, when the shim does.
	errStopping = fmt.Errorf("%w: the shim is ending", errdefs.ErrUnavailable)
	// errDeleted is why a creation fails during which containerd deletes the task.
	errDeleted = fmt.Errorf("%w: the task was deleted while it was being created", context.Canceled)
)

// publishable is an event.
type publishable = proto.Message

// Publisher tells containerd what happens, in order.
type Publisher interface {
	Publish(topic string, event proto.Message)
}

// service answers containerd.
type service struct {
	options   Options
	publisher Publisher

	done    chan struct{} // closed by Shutdown, and deserted
	once    sync.Once
	goodbye time.Duration // how long who has asked may take to hang up; written before done is closed

	background sync.WaitGroup

	execs atomic.Uint64 // how many processes were added

	calls sync.WaitGroup // that are under way

	// booting is held while the pod is made.
	booting sync.Mutex

	mu       sync.Mutex // guards what follows
	tasks    map[string]*task
	home     *home                              // the pod; nil before the first task, and after the last
	used     bool                               // there was a task, or a pod
	stopping bool                               // no call is taken any more
	underWay map[uint64]context.CancelCauseFunc // of calls, by their number
	lastCall uint64
}

func newService(options Options, publisher Publisher) *service {
	if options.Started == nil {
		options.Started = func() {}
	}
	return &service{
		options: options, publisher: publisher,
		done: make(chan struct{}), tasks: make(map[string]*task), underWay: make(map[uint64]context.CancelCauseFunc),
	}
}

// intercept takes a call, which ends when the shim does. Who asks an ending shim to
// end is content.
func (s *service) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	if path.Base(info.FullMethod) == "Shutdown" {
		return method(ctx, unmarshal)
	}
	asked := ctx
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, taskerror.Encode(err)
	}
	defer end()
	answer, err := method(ctx, unmarshal)
	if err != nil && errors.Is(asked.Err(), context.Canceled) { // its connection has ended
		s.deserted()
	}
	return answer, err
}

// deserted ends a shim that has nothing more to do and whose caller has gone away:
// containerd died before it could ask for that. One that was started again would
// take the shim for that of a task, and older ones (1.6, 1.7) would never end it.
func (s *service) deserted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used && len(s.tasks) == 0 && s.home.isClosed() {
		s.once.Do(func() { close(s.done) })
	}
}

// begin notes a call until end, which is called once.
func (s *service) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, nil, errStopping
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s.lastCall++
	number := s.lastCall
	s.underWay[number] = cancel
	s.calls.Add(1)
	return ctx, func() {
		s.mu.Lock()
		delete(s.underWay, number)
		s.mu.Unlock()
		cancel(nil)
		s.calls.Done()
	}, nil
}

// add claims a task's id.
func (s *service) add(t *task) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.tasks[t.id]; taken {
		return fmt.Errorf("task %q: %w", t.id, virtcontainers.ErrExists)
	}
	s.tasks[t.id] = t
	s.used = true
	return nil
}

func (s *service) drop(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, t.id)
}

// task finds one that was created.
func (s *service) task(id string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tasks[id]
	if !ok || !t.created {
		return nil, fmt.Errorf("task %q: %w", id, virtcontainers.ErrNotFound)
	}
	return t, nil
}

// pod is the pod that there is; nil for none.
func (s *service) pod() *home {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.home
}

// endCreation ends the creation of a task that is under way: its Create fails, and
// nothing is left when endCreation returns. One that completes meanwhile is a task.
func (s *service) endCreation(ctx context.Context, id string) error {
	s.mu.Lock()
	t, ok := s.tasks[id]
	if !ok || t.created {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	t.cancel(errDeleted)
	select {
	case <-t.settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of the task's creation: %w", context.Cause(ctx))
	}
}

// stop ends the pod, whatever is left of it, and all calls. Those that wait for a
// task's end are told of it. Once only.
func (s *service) stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	tasks := slices.Collect(maps.Values(s.tasks))
	for _, t := range tasks {
		if !t.created {
			t.cancel(errStopping)
		}
	}
	h := s.home
	s.mu.Unlock()
	var errs []error
	if h != nil { // ends also what does not look at a context
		errs = append(errs, h.pod.Stop(ctx))
	}
	for _, t := range tasks {
		<-t.settled
	}
	if h = s.pod(); h != nil {
		errs = append(errs, h.close(ctx))
	}
	for _, t := range tasks {
		if t.isCreated() {
			<-t.told
			t.forgetProcesses()
			errs = append(errs, t.Release(ctx, false))
		}
	}
	s.mu.Lock()
	for _, cancel := range s.underWay {
		cancel(errStopping)
	}
	s.mu.Unlock()
	s.calls.Wait()
	if h = s.pod(); h != nil { // of a call that was under way
		errs = append(errs, h.close(ctx))
	}
	s.background.Wait()
	return errors.Join(errs...)
}
