package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/loopback"
)

// ErrEnding says that the pod takes no container any more.
var ErrEnding = errors.New("the pod is ending")

// Options are what New needs.
type Options struct {
	Sandbox *virtcontainers.Sandbox
	Network Network
	// Loopback are the services that the configuration names.
	Loopback []loopback.Service
	// KeepEmpty: the pod does not end, nor stops its machine, because no container is
	// left that could run. Its front end stops it.
	KeepEmpty bool
	// Survival is how long a container may outlive SIGKILL, after which its machine is
	// stopped; 0: survival.
	Survival time.Duration
	Log      *slog.Logger
}

// Pod is one pod. Its methods may be called at the same time.
type Pod struct {
	options Options
	sandbox *virtcontainers.Sandbox
	log     *slog.Logger

	done chan struct{} // closed by finish
	once sync.Once

	background sync.WaitGroup

	// services is held while loopback services are found and set. It comes
	// before mu.
	services sync.Mutex

	mu         sync.Mutex // guards what follows
	containers map[string]*Container
	holds      int
	used       bool // it has had a container
	ending     bool // no container is taken any more
}

// New makes a pod around a sandbox that boots or has booted, which Stop stops.
func New(options Options) *Pod {
	return &Pod{
		options: options, sandbox: options.Sandbox, log: options.Log,
		done: make(chan struct{}), containers: make(map[string]*Container),
	}
}

// Done is closed when the pod is to end.
func (p *Pod) Done() <-chan struct{} { return p.done }

// Hold keeps a pod that has no container yet, for somebody who may make one,
// until release. A pod that ends takes no hold.
func (p *Pod) Hold() (release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return nil, ErrEnding
	}
	p.holds++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		p.holds--
		p.mu.Unlock()
		p.EndIfUnused()
	}), nil
}

// EndIfUnused ends a pod that has lost its last container, or in which nobody is
// left who could make the first.
func (p *Pod) EndIfUnused() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.options.KeepEmpty && len(p.containers) == 0 && (p.used || p.holds == 0) {
		p.end()
	}
}

// End makes the pod take no container any more, and closes Done.
func (p *Pod) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

// end is End for who holds mu.
func (p *Pod) end() {
	p.ending = true
	p.once.Do(func() { close(p.done) })
}

// Unused tells whether the pod has had no container yet, and does not end.
func (p *Pod) Unused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.used && !p.ending
}

// Stop ends the pod and its machine: containers exit, attachments learn of it.
// Wait follows. Idempotent.
func (p *Pod) Stop(ctx context.Context) error {
	err := p.sandbox.Stop(ctx)
	p.End()
	return err
}

// Wait waits until everything that the pod does in the background has ended, and
// lets go of what it holds. The pod was stopped, and no other call is under way.
func (p *Pod) Wait() {
	p.background.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.containers {
		c.dropResolvConf()
	}
}

// Container finds a container that was created.
func (p *Pod) Container(id string) (*Container, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.containers[id]
	if !ok || !c.state.reachable() {
		return nil, fmt.Errorf("container %q: %w", id, virtcontainers.ErrNotFound)
	}
	return c, nil
}

// count tells how many containers there are, in whatever state.
func (p *Pod) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.containers)
}

// stopIfIdle stops a machine in which no container can run any more.
func (p *Pod) stopIfIdle(ctx context.Context) {
	if !p.idle() {
		return
	}
	if err := p.sandbox.Stop(ctx); err != nil {
		p.log.Error("stop the idle machine", "error", err)
	}
}

// idle tells whether there are containers and none of them can run any more.
func (p *Pod) idle() bool {
	if p.options.KeepEmpty {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.containers {
		switch c.state {
		case reserving, reserved, creating:
			return false
		case live:
			if c.core.Status() != virtcontainers.StatusStopped {
				return false
			}
		case ended, leaving, gone:
		}
	}
	return len(p.containers) > 0
}

// dropResolvConf lets go of the container's resolv.conf. The caller holds the
// pod's mu.
func (c *Container) dropResolvConf() {
	if c.resolvConf != nil {
		c.resolvConf.Close()
		c.resolvConf = nil
	}
}

// closeFile closes a file that may be none.
func closeFile(file *os.File) {
	if file != nil {
		file.Close()
	}
}
