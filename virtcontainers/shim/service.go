package shim

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"kata-runtime/virtcontainers"
)

// answerTimeout bounds how long an ending shim waits for containerd to take its
// answers.
const answerTimeout = 3 * time.Second

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

	done chan struct{} // closed by Shutdown
	once sync.Once

	background sync.WaitGroup

	execs atomic.Uint64 // how many processes were added

	// booting is held while the pod is made.
	booting sync.Mutex

	mu    sync.Mutex // guards what follows
	tasks map[string]*task
	home  *home // the pod; nil before the first task, and after the last
}

func newService(options Options, publisher Publisher) *service {
	return &service{
		options: options, publisher: publisher,
		done: make(chan struct{}), tasks: make(map[string]*task),
	}
}

// add claims a task's id.
func (s *service) add(t *task) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.tasks[t.id]; taken {
		return fmt.Errorf("task %q: %w", t.id, virtcontainers.ErrExists)
	}
	s.tasks[t.id] = t
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

// stop ends the pod, whatever is left of it.
func (s *service) stop(ctx context.Context) error {
	if h := s.pod(); h != nil {
		return h.close(ctx)
	}
	return nil
}
