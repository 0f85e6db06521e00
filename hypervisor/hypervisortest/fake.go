package hypervisortest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
)

var _ hypervisor.VM = (*Fake)(nil)

// FakeOptions describe a Fake.
type FakeOptions struct {
	// Size and MaxSize are as with a real driver. Zero: 1 vCPU, 256 MiB, and
	// no growth.
	Size, MaxSize hypervisor.Size
	// Devices are there from the start.
	Devices []hypervisor.Device
	// Slots is how many devices can be attached at a time.
	Slots int
	// Console gets what the guest prints. Nil: it is dropped.
	Console io.Writer
	// StartError, if not nil, is what Start returns; the VM has ended then.
	StartError error
	// Guest runs, on a goroutine of its own, from Start until it returns; the
	// VM goes on after it. Its context ends with the VM, whose end waits for
	// it. Nil: the guest does nothing, and tests use Fake.Guest.
	Guest func(ctx context.Context, guest *FakeGuest)
}

// Fake is a VM without a VMM: its guest is a Go function, and its vsock connects
// the two inside this process. Its methods are safe for concurrent use.
type Fake struct {
	opts  FakeOptions
	ended chan struct{}
	// stopGuest ends the guest's context; guests counts its goroutines.
	stopGuest context.CancelFunc
	guests    sync.WaitGroup

	mu sync.Mutex
	// All below are guarded by mu.
	state   hypervisor.State
	size    hypervisor.Size
	outcome error
	// changed is closed and replaced when devices or size change.
	changed chan struct{}
	devices map[string]hypervisor.Device
	slots   int // free ones
	vsock   fakeVsock
}

// NewFake returns a VM that is not started.
func NewFake(o FakeOptions) *Fake {
	if o.Size == (hypervisor.Size{}) {
		o.Size = hypervisor.Size{VCPUs: 1, MemoryMiB: 256}
	}
	o.MaxSize.VCPUs = max(o.MaxSize.VCPUs, o.Size.VCPUs)
	o.MaxSize.MemoryMiB = max(o.MaxSize.MemoryMiB, o.Size.MemoryMiB)
	if o.Console == nil {
		o.Console = io.Discard
	}
	f := &Fake{
		opts: o, ended: make(chan struct{}), size: o.Size, slots: o.Slots,
		changed: make(chan struct{}),
		devices: make(map[string]hypervisor.Device),
		vsock:   newFakeVsock(),
	}
	for _, d := range o.Devices {
		f.devices[d.DeviceID()] = d
	}
	return f
}

// Guest returns the guest's side.
func (f *Fake) Guest() *FakeGuest { return &FakeGuest{vm: f} }

// Kill ends the VM as if the VMM had died of a signal.
func (f *Fake) Kill() {
	f.end(&hypervisor.ExitError{VMM: "fake", Status: "signal: killed"})
}

// end ends the VM. Its first call counts.
func (f *Fake) end(outcome error) {
	f.mu.Lock()
	if f.state == hypervisor.StateEnded {
		f.mu.Unlock()
		return
	}
	f.state = hypervisor.StateEnded
	f.outcome = outcome
	stopGuest := f.stopGuest
	closers := f.vsock.drain()
	f.mu.Unlock()
	for _, c := range closers {
		_ = c.Close()
	}
	if stopGuest != nil {
		stopGuest()
	}
	close(f.ended)
}

// Start lets the guest run. See hypervisor.VM, also for the other methods.
func (f *Fake) Start(ctx context.Context) error {
	f.mu.Lock()
	switch {
	case f.state == hypervisor.StateEnded:
		f.mu.Unlock()
		return hypervisor.ErrEnded
	case f.state != hypervisor.StateNew:
		f.mu.Unlock()
		return hypervisor.ErrStarted
	}
	err := f.opts.StartError
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		f.mu.Unlock()
		f.end(err)
		return fmt.Errorf("start fake VM: %w", err)
	}
	f.state = hypervisor.StateRunning
	// The guest lives as long as the VM, not as the call.
	guestCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stopGuest = stop
	if f.opts.Guest != nil { // begun before the end can wait for it
		f.guests.Go(func() { f.opts.Guest(guestCtx, f.Guest()) })
	}
	f.mu.Unlock()
	return nil
}

// Wait blocks until the VM has ended.
func (f *Fake) Wait(ctx context.Context) error {
	select {
	case <-f.ended:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.outcome
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop ends the VM and waits for its guest.
func (f *Fake) Stop(context.Context) error {
	f.end(nil)
	f.guests.Wait()
	return nil
}

// Pause marks the VM as paused; the guest runs on.
func (f *Fake) Pause(context.Context) error { return f.switchTo(hypervisor.StatePaused) }

// Resume marks the VM as running.
func (f *Fake) Resume(context.Context) error { return f.switchTo(hypervisor.StateRunning) }

func (f *Fake) switchTo(state hypervisor.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	f.state = state
	return nil
}

// usable says whether the VM was started and has not ended; f.mu is held.
func (f *Fake) usable() error {
	switch f.state {
	case hypervisor.StateNew:
		return hypervisor.ErrNotRunning
	case hypervisor.StateEnded:
		return hypervisor.ErrEnded
	default:
		return nil
	}
}

// Info describes the VM. Its PID is this process's.
func (f *Fake) Info() hypervisor.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	info := hypervisor.Info{State: f.state, Size: f.size, Driver: "fake", Version: "1.0.0", Accelerator: "tcg"}
	if f.state != hypervisor.StateNew {
		info.PID = os.Getpid()
	}
	return info
}

// Dial connects to a listener of FakeGuest.Listen.
func (f *Fake) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	f.mu.Lock()
	err := f.usable()
	f.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("dial vsock port %d: %w", port, err)
	}
	return f.connect(ctx, towardsGuest, port)
}

// Listen takes the connections of FakeGuest.Dial.
func (f *Fake) Listen(port uint32) (net.Listener, error) { return f.listen(towardsHost, port) }

// Attach keeps the device where the guest can see it.
func (f *Fake) Attach(_ context.Context, device hypervisor.Device) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := device.DeviceID()
	switch err := f.usable(); {
	case err != nil:
		return fmt.Errorf("attach %q: %w", id, err)
	case f.devices[id] != nil:
		return fmt.Errorf("attach %q: %w", id, os.ErrExist)
	case f.slots == 0:
		return fmt.Errorf("attach %q: %w", id, hypervisor.ErrNoSlot)
	}
	kept, err := keep(device)
	if err != nil {
		return fmt.Errorf("attach %q: %w", id, err)
	}
	f.slots--
	f.devices[id] = kept
	f.announce()
	return nil
}

// keep duplicates a disk's file, as real drivers do with all files. The finalizer
// of os.File closes it.
func keep(device hypervisor.Device) (hypervisor.Device, error) {
	disk, ok := device.(*hypervisor.Disk)
	if !ok || disk.File == nil {
		return device, nil
	}
	fd, err := unix.FcntlInt(disk.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", disk.File.Name(), err)
	}
	kept := *disk
	kept.File = os.NewFile(uintptr(fd), disk.File.Name())
	return &kept, nil
}

// Detach takes the device away.
func (f *Fake) Detach(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch err := f.usable(); {
	case err != nil:
		return fmt.Errorf("detach %q: %w", id, err)
	case f.devices[id] == nil:
		return fmt.Errorf("detach %q: %w", id, hypervisor.ErrNoDevice)
	}
	for _, cold := range f.opts.Devices {
		if cold.DeviceID() == id {
			return fmt.Errorf("detach %q: %w", id, hypervisor.ErrUnsupported)
		}
	}
	f.slots++
	delete(f.devices, id)
	f.announce()
	return nil
}

// Resize grows the VM, as QEMU does.
func (f *Fake) Resize(_ context.Context, size hypervisor.Size) (hypervisor.Size, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return f.size, fmt.Errorf("resize: %w", err)
	}
	if size.VCPUs > f.opts.MaxSize.VCPUs || size.MemoryMiB > f.opts.MaxSize.MemoryMiB {
		return f.size, fmt.Errorf("resize to %+v: %w", size, hypervisor.ErrUnsupported)
	}
	f.size.VCPUs = max(f.size.VCPUs, size.VCPUs)
	f.size.MemoryMiB = max(f.size.MemoryMiB, size.MemoryMiB)
	f.announce()
	return f.size, nil
}

// announce tells the guest that devices or size have changed; f.mu is held.
func (f *Fake) announce() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// FakeGuest is what the guest of a Fake can do.
type FakeGuest struct{ vm *Fake }

// Listen takes the host's connections to a port of the guest.
func (g *FakeGuest) Listen(port uint32) (net.Listener, error) { return g.vm.listen(towardsGuest, port) }

// Dial connects to a listener of the host's. Where nobody listens, the error
// wraps syscall.ECONNRESET.
func (g *FakeGuest) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return g.vm.connect(ctx, towardsHost, port)
}

// Print writes to the console.
func (g *FakeGuest) Print(text string) { _, _ = io.WriteString(g.vm.opts.Console, text) }

// PowerOff ends the VM well.
func (g *FakeGuest) PowerOff() { g.vm.end(nil) }

// Crash ends the VM as a kernel panic does.
func (g *FakeGuest) Crash() {
	g.vm.end(fmt.Errorf("%w: %w", hypervisor.ErrEnded, hypervisor.ErrGuestReset))
}

// State returns the VM's devices and size, and a channel that is closed when
// they have changed.
func (g *FakeGuest) State() (devices []hypervisor.Device, size hypervisor.Size, changed <-chan struct{}) {
	g.vm.mu.Lock()
	defer g.vm.mu.Unlock()
	for _, d := range g.vm.devices {
		devices = append(devices, d)
	}
	return devices, g.vm.size, g.vm.changed
}
