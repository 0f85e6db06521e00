package shim_test

import (
	"cmp"
	"context"
	"os"
	"sync"
	"testing"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/shim"
)

// holders are processes that stand for containers: this one does for all, or real
// ones.
type holders struct {
	real    bool
	mu      sync.Mutex
	running int
	all     []*countedHolder
	pid     int // what they report; 0: this process's
	fail    error
	started chan struct{} // if not nil: one waits here, and then for its context
}

func (h *holders) start(ctx context.Context, options holder.Options) (shim.Holder, error) {
	h.mu.Lock()
	fail, started := h.fail, h.started
	h.mu.Unlock()
	if fail != nil {
		return nil, fail
	}
	if started != nil {
		close(started)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	done := make(chan struct{})
	kill := sync.OnceFunc(func() { close(done) })
	counted := &countedHolder{holders: h, id: options.ID, pid: cmp.Or(h.pid, os.Getpid()), done: done, kill: kill, stop: kill}
	if h.real {
		process, err := holder.Start(ctx, options)
		if err != nil {
			return nil, err
		}
		counted.pid, counted.done, counted.stop = process.PID(), process.Done(), process.Stop
		counted.kill = func() { _ = unix.Kill(process.PID(), unix.SIGKILL) }
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running++
	h.all = append(h.all, counted)
	return counted, nil
}

func (h *holders) left() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running
}

// kill kills the holder of a container.
func (h *holders) kill(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, held := range h.all {
		if held.id == id {
			held.kill()
		}
	}
}

type countedHolder struct {
	holders    *holders
	id         string
	pid        int
	done       <-chan struct{}
	kill, stop func()
	once       sync.Once
}

func (h *countedHolder) PID() int { return h.pid }

func (h *countedHolder) Done() <-chan struct{} { return h.done }

func (h *countedHolder) Stop() {
	h.once.Do(func() {
		h.stop()
		h.holders.mu.Lock()
		defer h.holders.mu.Unlock()
		h.holders.running--
	})
}

// What stands for a container on the host is killed: the container ends, as with a
// runtime whose container that process is.
func TestHolderKilled(t *testing.T) {
	f := serve(t)
	f.holders.real = true
	f.run("c1", declared)
	f.run("c2", f.member())
	f.create("c3", f.member())
	f.exec("c2", "e1")
	if _, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c2", ExecID: "e1"}); err != nil {
		t.Fatal(err)
	}
	f.holders.kill("c3")
	f.wait("c3", "", 137)
	f.holders.kill("c2")
	f.wait("c2", "e1", 137)
	f.wait("c2", "", 137)
	f.remove("c2", "e1")
	f.remove("c2", "")
	f.remove("c3", "")
	f.run("c2", f.member()) // the pod is there
	f.holders.kill("c1")    // and is not any more
	f.wait("c2", "", 137)
	f.wait("c1", "", 137)
	if _, err := f.Create(f.ctx(), f.request("c4", joins("c1"))); err == nil {
		t.Error("a container is created in a pod that has ended")
	}
	f.remove("c2", "")
	f.remove("c1", "")
	f.nothingOnHost()
}

func TestHolderOfSandboxKilled(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_CONTAINER)
	f.run("c2", f.member)
	f.holders.kill("c1")
	ended, err := f.WaitSandbox(f.ctx(), &sandboxapi.WaitSandboxRequest{SandboxID: "c1"})
	if err != nil || ended.GetExitStatus() != 137 {
		t.Errorf("%v, %v", ended, err)
	}
	f.fixture.wait("c2", "", 137)
	f.remove("c2", "")
	f.shutdown()
}
