package sandboxtest

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/containerd/ttrpc"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
)

// Token is the secret with which a Guest reports that it is ready.
const Token = "0123456789abcdef"

// Guest is an agent without a guest.
type Guest struct {
	// Machine and Share belong to the sandbox of this guest.
	Machine *Machine
	Share   *Share
	// Silent: it never reports that it is ready.
	Silent bool

	// Deaf: it takes no more bytes of the agent's connection.
	Deaf atomic.Bool
	// Measured is what Metrics answers; nil: nothing.
	Measured atomic.Pointer[protocol.MetricsResponse]
	// Immortal: no signal ends a process.
	Immortal atomic.Bool

	ooms chan string

	mu        sync.Mutex // guards what follows
	hooks     map[string]Hook
	requests  map[string][]any
	processes map[ProcessKey]*process
	oomEvents uint64
	agent     net.Conn   // its end of the agent's connection
	left      []net.Conn // streams of processes that have ended
	forwarded []uint16
}

// Hook is what a Guest does before it answers a call of the agent's protocol. An
// error is its answer. ctx ends with the caller's patience or the machine.
type Hook func(ctx context.Context, request any) error

// ProcessKey names a process; that of a container's init is empty.
type ProcessKey struct{ Container, Process string }

// Init names a container's init.
func Init(container string) ProcessKey { return ProcessKey{Container: container} }

// process is one process of the guest: its streams come before it does.
type process struct {
	streams []net.Conn
	stdout  net.Conn // one of them; nil without
	exited  chan struct{}
	code    uint32
	lost    bool // it went with the machine
}

// NewGuest makes a guest with its Machine and its Share.
func NewGuest() *Guest {
	guest := &Guest{
		Share: &Share{containers: make(map[string]bool)},
		ooms:  make(chan string),
		hooks: make(map[string]Hook), requests: make(map[string][]any),
		processes: make(map[ProcessKey]*process),
	}
	guest.Machine = newMachine(guest)
	return guest
}

// On sets what is done before a method of the protocol, such as "CreateContainer",
// is answered; nil: nothing any more.
func (g *Guest) On(method string, hook Hook) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hooks[method] = hook
}

// Refuse sets what a method of the protocol is answered; nil: it is done again.
func (g *Guest) Refuse(method string, err error) {
	g.On(method, func(context.Context, any) error { return err })
}

// Hold lets the calls of a method wait for release. Each is told on called first.
func (g *Guest) Hold(method string) (called <-chan struct{}, release func()) {
	calls, released := make(chan struct{}), make(chan struct{})
	g.On(method, func(ctx context.Context, _ any) error {
		select {
		case calls <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-released:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return calls, sync.OnceFunc(func() { close(released) })
}

// Requests returns what a method of the protocol was asked for so far. R is the
// method's type of a request, such as *protocol.CreateSandboxRequest.
func Requests[R any](g *Guest, method string) []R {
	g.mu.Lock()
	defer g.mu.Unlock()
	requests := make([]R, len(g.requests[method]))
	for i, request := range g.requests[method] {
		requests[i] = request.(R)
	}
	return requests
}

// Print writes to a process's standard output.
func (g *Guest) Print(key ProcessKey, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p, ok := g.processes[key]; ok && p.stdout != nil {
		_, _ = p.stdout.Write([]byte(text))
	}
}

// Exit ends a process, or with a container's init all of the container's, as the
// agent does.
func (g *Guest) Exit(key ProcessKey, code uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.exit(key, code)
}

// exit is Exit for who holds mu.
func (g *Guest) exit(key ProcessKey, code uint32) {
	for other, p := range g.processes {
		switch {
		case other == key:
			p.end(code)
		case key.Process == "" && other.Container == key.Container:
			p.end(128 + uint32(syscall.SIGKILL))
		}
	}
}

// ExitSilently ends a process, and leaves its output open, as no agent does.
func (g *Guest) ExitSilently(key ProcessKey, code uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.processes[key]
	g.left, p.streams = append(g.left, p.streams...), nil
	p.end(code)
}

// end is called once or more often, with the guest's mu held.
func (p *process) end(code uint32) {
	select {
	case <-p.exited:
		return
	default:
	}
	for _, stream := range p.streams {
		stream.Close()
	}
	p.code = code
	close(p.exited)
}

// OutOfMemory lets the agent tell of a container's lack of memory, and returns
// once the host has asked for it.
func (g *Guest) OutOfMemory(container string) { g.ooms <- container }

// SetOOMEvents sets how many events of their containers the agent tells of with
// the ends of processes to come.
func (g *Guest) SetOOMEvents(n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.oomEvents = n
}

// HangUp ends the agent's connection.
func (g *Guest) HangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.agent.Close()
}

// Forwarded returns the ports of loopback that the host asked for so far. All were
// refused.
func (g *Guest) Forwarded() []uint16 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.forwarded)
}

// forward refuses a connection that was made to loopback, and notes its port.
func (g *Guest) forward(conn net.Conn) {
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

// stream accepts a stream's connection.
func (g *Guest) stream(conn net.Conn) {
	header, err := protocol.ReadStreamHeader(conn)
	if err != nil {
		conn.Close()
		return
	}
	g.mu.Lock()
	p := g.process(ProcessKey{header.Container, header.Process})
	p.streams = append(p.streams, conn)
	if header.Stream == protocol.Stdout {
		p.stdout = conn
	}
	g.mu.Unlock()
	_, _ = conn.Write([]byte{protocol.StreamAccepted})
}

// process returns a process that has begun, or is about to. The caller holds mu.
func (g *Guest) process(key ProcessKey) *process {
	p, ok := g.processes[key]
	if !ok {
		p = &process{exited: make(chan struct{})}
		g.processes[key] = p
	}
	return p
}

// releaseAll ends what runs when the machine does.
func (g *Guest) releaseAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.processes {
		select {
		case <-p.exited:
		default:
			p.lost = true
		}
		p.end(128 + uint32(syscall.SIGKILL))
	}
	for _, stream := range g.left {
		stream.Close()
	}
	g.left = nil
}

// list returns the processes of a container that have not ended.
func (g *Guest) list(container string) []*protocol.ProcessInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	var infos []*protocol.ProcessInfo
	for _, key := range slices.SortedFunc(maps.Keys(g.processes), compareKeys) {
		select {
		case <-g.processes[key].exited:
			continue
		default:
		}
		if key.Container == container {
			infos = append(infos, &protocol.ProcessInfo{Pid: int32(len(infos) + 1), Command: key.Process})
		}
	}
	return infos
}

// intercept notes a request, and runs its method's hook, before it is answered.
func (g *Guest) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	// The method returns the error of its unmarshaler as its own.
	return method(ctx, func(request any) error {
		if err := unmarshal(request); err != nil {
			return err
		}
		return g.received(ctx, info.FullMethod, request)
	})
}
