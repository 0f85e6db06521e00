package sandboxtest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/containerd/ttrpc"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
)

var _ virtcontainers.Machine = (*Machine)(nil)

// Console is what a Machine's guest has written last.
const Console = "last words"

// Machine connects a sandbox with a Guest, inside the test's process.
type Machine struct {
	// Stuck: Start returns only with the machine's end.
	Stuck bool
	// Mute: nothing is on its console.
	Mute bool
	// Slots is how many devices can be attached at a time.
	Slots int

	guest   *Guest
	ready   *listener
	started chan struct{}
	stopped chan struct{}
	ended   chan struct{}
	// released is closed when Stop begins: the end alone does not close ready.
	released             chan struct{}
	end, release, finish sync.Once // close ended, released and stopped
	group                sync.WaitGroup

	mu        sync.Mutex // guards what follows
	state     hypervisor.State
	cause     error // of the end
	size      hypervisor.Size
	resizeErr error
	attached  map[string]hypervisor.Device
	listeners map[uint32]*listener
}

func newMachine(guest *Guest) *Machine {
	m := &Machine{
		guest: guest, started: make(chan struct{}), stopped: make(chan struct{}), ended: make(chan struct{}),
		released: make(chan struct{}),
		attached: make(map[string]hypervisor.Device), listeners: make(map[uint32]*listener),
	}
	m.ready = newListener(protocol.ReadyPort, m.released)
	return m
}

// Started is closed by Start.
func (m *Machine) Started() <-chan struct{} { return m.started }

// Stopped is closed by Stop.
func (m *Machine) Stopped() <-chan struct{} { return m.stopped }

// WasStopped tells whether Stop was called.
func (m *Machine) WasStopped() bool {
	select {
	case <-m.stopped:
		return true
	default:
		return false
	}
}

// Fail ends the machine, as by itself; nil: as the guest has asked for.
func (m *Machine) Fail(cause error) {
	m.end.Do(func() {
		m.mu.Lock()
		m.cause, m.state = cause, hypervisor.StateEnded
		m.mu.Unlock()
		close(m.ended)
	})
}

// SetSize sets what the machine has.
func (m *Machine) SetSize(size hypervisor.Size) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.size = size
}

// FailResize sets what Resize fails with; nil: it does not.
func (m *Machine) FailResize(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resizeErr = err
}

// Start implements virtcontainers.Machine.
func (m *Machine) Start(context.Context) error {
	m.mu.Lock()
	if m.state == hypervisor.StateNew {
		m.state = hypervisor.StateRunning
	}
	m.mu.Unlock()
	if !m.guest.Silent {
		ours, theirs := net.Pipe()
		m.run(ours, func() { m.ready.deliver(theirs) }, func() {
			_, _ = ours.Write([]byte(Token + "\n"))
			ours.Close()
		})
	}
	close(m.started)
	if m.Stuck {
		<-m.ended
		return hypervisor.ErrEnded
	}
	return nil
}

// run does what the guest does with a connection, which the machine's end closes.
func (m *Machine) run(conn net.Conn, parts ...func()) {
	if !m.begin(append(parts, func() {
		<-m.ended
		conn.Close()
	})...) {
		conn.Close()
	}
}

// begin lets parts of the guest run, unless the machine has ended, whose end they
// do not outlive.
func (m *Machine) begin(parts ...func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == hypervisor.StateEnded {
		return false
	}
	for _, part := range parts {
		m.group.Go(part)
	}
	return true
}

// Wait implements virtcontainers.Machine.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.ended:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.cause
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop implements virtcontainers.Machine.
func (m *Machine) Stop(context.Context) error {
	m.Fail(nil)
	m.release.Do(func() { close(m.released) })
	m.guest.releaseAll()
	m.group.Wait()
	m.finish.Do(func() { close(m.stopped) })
	return nil
}

// Info implements virtcontainers.Machine.
func (m *Machine) Info() hypervisor.Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	return hypervisor.Info{State: m.state, Size: m.size, Driver: "fake", Version: "0", Accelerator: "none"}
}

// Dial implements virtcontainers.Machine.
func (m *Machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	switch port {
	case protocol.ForwardPort:
		ours, theirs := net.Pipe()
		m.run(theirs, func() { m.guest.forward(theirs) })
		return ours, nil
	case protocol.StreamPort:
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, err
		}
		m.run(theirs, func() { m.guest.stream(theirs) })
		return ours, nil
	case protocol.AgentPort:
		return m.serveAgent(ctx)
	default:
		return nil, fmt.Errorf("dial port %d: %w", port, errRefused)
	}
}

func (m *Machine) serveAgent(ctx context.Context) (net.Conn, error) {
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(m.guest.intercept))
	if err != nil {
		return nil, err
	}
	protocol.RegisterAgentService(server, agent{m.guest})
	ours, theirs := net.Pipe()
	conns := newListener(protocol.AgentPort, m.ended)
	if !m.begin(func() { conns.deliver(theirs) },
		func() { _ = server.Serve(context.WithoutCancel(ctx), conns) },
		func() {
			<-m.ended
			_ = server.Close() // with its connection
		}) {
		return nil, fmt.Errorf("dial the agent: %w", hypervisor.ErrEnded)
	}
	m.guest.mu.Lock()
	defer m.guest.mu.Unlock()
	m.guest.agent = theirs
	return &creditConn{Conn: ours, guest: m.guest, closed: make(chan struct{})}, nil
}

// Listen implements virtcontainers.Machine.
func (m *Machine) Listen(port uint32) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listeners[port] != nil {
		return nil, fmt.Errorf("listen on port %d: it is taken", port)
	}
	m.listeners[port] = newListener(port, m.ended)
	return m.listeners[port], nil
}

// DialHost makes a connection of the guest to a port that the host listens on.
func (m *Machine) DialHost(port uint32) (net.Conn, error) {
	m.mu.Lock()
	listener := m.listeners[port]
	m.mu.Unlock()
	if listener == nil {
		return nil, fmt.Errorf("dial port %d of the host: %w", port, errRefused)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	m.run(theirs, func() { listener.deliver(theirs) })
	return ours, nil
}

// Attach implements virtcontainers.Machine.
func (m *Machine) Attach(_ context.Context, device hypervisor.Device) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := device.DeviceID()
	if len(m.attached) >= m.Slots {
		return fmt.Errorf("attach %s: %w", id, hypervisor.ErrNoSlot)
	}
	m.attached[id] = device
	return nil
}

// Detach implements virtcontainers.Machine.
func (m *Machine) Detach(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attached[id] == nil {
		return fmt.Errorf("detach %s: %w", id, hypervisor.ErrNoDevice)
	}
	delete(m.attached, id)
	return nil
}

// Attached returns the ids of the devices that are attached.
func (m *Machine) Attached() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.attached))
}

// Resize implements virtcontainers.Machine.
func (m *Machine) Resize(_ context.Context, size hypervisor.Size) (hypervisor.Size, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.resizeErr != nil {
		return m.size, m.resizeErr
	}
	m.size = hypervisor.Size{VCPUs: max(m.size.VCPUs, size.VCPUs), MemoryMiB: max(m.size.MemoryMiB, size.MemoryMiB)}
	return m.size, nil
}

// Ready implements virtcontainers.Machine.
func (m *Machine) Ready() net.Listener { return m.ready }

// ConsoleTail implements virtcontainers.Machine.
func (m *Machine) ConsoleTail() string {
	if m.Mute {
		return ""
	}
	return Console
}

// AwaitConsole implements virtcontainers.Machine: the line never comes.
func (*Machine) AwaitConsole(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// Helpers implements virtcontainers.Machine.
func (*Machine) Helpers() map[string]int { return nil }

// Share implements virtcontainers.Machine.
func (*Machine) Share() *protocol.Share { return &protocol.Share{} }
