package virtcontainers

import (
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/ttrpc"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/agent"
)

// pendingOOM is how many events wait for one watcher. Further ones are dropped:
// the guest decides how many there are, and a watcher how soon it takes them.
const pendingOOM = 16

// oomWatchers are those who want to hear of one container's lack of memory.
type oomWatchers struct {
	mu       sync.Mutex // guards what follows
	seen     uint64     // events of the container so far
	ended    bool       // nothing is delivered any more
	watchers map[chan struct{}]struct{}
}

// WatchOOM returns a channel that receives each time that the guest's kernel
// has killed a process of the container for lack of memory. The channel is
// closed with the container's end, after the last event, or by stop.
func (c *Container) WatchOOM() (events <-chan struct{}, stop func()) {
	return c.oom.add()
}

func (w *oomWatchers) add() (events <-chan struct{}, stop func()) {
	watcher := make(chan struct{}, pendingOOM)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		close(watcher)
		return watcher, func() {}
	}
	if w.watchers == nil {
		w.watchers = make(map[chan struct{}]struct{})
	}
	w.watchers[watcher] = struct{}{}
	return watcher, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.drop(watcher)
	}
}

// drop closes a watcher once. The caller holds mu.
func (w *oomWatchers) drop(watcher chan struct{}) {
	if _, ok := w.watchers[watcher]; ok {
		delete(w.watchers, watcher)
		close(watcher)
	}
}

// notify delivers one event, and tells whether it is the container's first.
func (w *oomWatchers) notify() (first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deliver()
	return w.seen == 1
}

// deliver is notify for who holds mu.
func (w *oomWatchers) deliver() {
	if w.ended {
		return
	}
	w.seen++
	for watcher := range w.watchers {
		select {
		case watcher <- struct{}{}:
		default:
		}
	}
}

// end ends the watch with the container's. The news of its end may have
// overtaken that of the lack of memory which caused it: then that is told
// first.
func (w *oomWatchers) end(exit Exit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if exit.oomEvents > w.seen {
		w.deliver()
	}
	w.ended = true
	for watcher := range w.watchers {
		w.drop(watcher)
	}
}

// dispatchOOM hears from the agent of lack of memory and tells those who watch
// the container. One call at a time is under way, whatever the guest answers.
func (s *Sandbox) dispatchOOM() {
	for {
		event, err := s.agent.NextOOM(s.life, &protocol.Empty{})
		if err != nil {
			switch {
			case s.endedWith(err):
			case errors.Is(err, ttrpc.ErrClosed):
				// No process may be there whose end anybody waits for, and who makes a
				// machine without an agent end. For a call it is too late.
				s.giveUp(fmt.Errorf("%w: the agent has hung up: %w", ErrMachineEnded, err))
			case errors.Is(err, agent.ErrMalformed), errors.Is(err, agent.ErrStalled):
				s.giveUp(fmt.Errorf("%w: the agent's connection was ended: %w", ErrMachineEnded, err)) // likewise
			default:
				s.log.Warn("lack of memory in the guest will not be reported", "error", agentErr(err))
			}
			return
		}
		c, err := s.Container(event.GetContainerId())
		if errors.Is(err, ErrNotFound) {
			continue // removed meanwhile
		}
		if c.oom.notify() { // a guest that floods the host must not fill its log
			s.log.Info("out of memory", "container", c.id)
		}
	}
}
