package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/qmp"
)

var _ hypervisor.VM = (*VM)(nil)

// VM is one QEMU process. It implements hypervisor.VM.
type VM struct {
	opts Options
	path string
	// starter forks QEMU; ownStarter says that it is the VM's own.
	starter    *child.Starter
	ownStarter bool
	// ended is closed when QEMU, or a VM that was never started, has ended and
	// all is released; outcome is set before.
	ended chan struct{}
	// patience is killTimeout, except in tests.
	patience time.Duration
	// unreadable says that an event could not be read.
	unreadable sync.Once
	// plugging is held, by a token in it, by whoever changes the VM's
	// devices or size. A channel, so that waiting for it ends with a context.
	plugging chan struct{}
	// migration gets how Save, or Restore, has ended.
	migration chan string

	mu sync.Mutex
	// All below are guarded by mu.
	phase   phase
	paused  bool
	outcome error
	// shutdown is the reason of QEMU's SHUTDOWN event, empty before it.
	shutdown  string
	process   *os.Process
	client    *qmp.Client
	info      hypervisor.Info
	listeners map[*listener]struct{}
	// coldFiles are the duplicates for QEMU to inherit, until it has.
	coldFiles []*os.File
	// devices are all that the guest has, or is being asked to give back.
	devices map[string]*attached
	// slots are the places for devices that are plugged in.
	slots []*slot
	// dimms counts the memory that was plugged in. Only Resize, which is alone,
	// touches it.
	dimms int
	// serial numbers names of back ends, of hot-plugged vCPUs and memory.
	serial int
}

// phase is the driver's view of a VM's life; paused is apart.
type phase int

const (
	phaseNew phase = iota
	phaseStarting
	phaseRunning
	// phaseStopping: Stop was called; the process may still be there.
	phaseStopping
	phaseEnded
)

// New returns a VM that is not started. It checks the options, finds QEMU and
// duplicates the devices' files, which Stop releases. A missing QEMU wraps
// ErrNoQEMU, a missing kernel or initrd os.ErrNotExist.
func New(o Options) (*VM, error) {
	if err := o.normalize(); err != nil {
		return nil, fmt.Errorf("QEMU options: %w", err)
	}
	path, err := find(o.Path, o.Architecture)
	if err != nil {
		return nil, err
	}
	if err := o.checkHost(); err != nil {
		return nil, err
	}
	vm := &VM{
		path: path, starter: o.Starter, patience: killTimeout,
		ended:     make(chan struct{}),
		plugging:  make(chan struct{}, 1),
		migration: make(chan string, 1),
		listeners: make(map[*listener]struct{}),
		devices:   make(map[string]*attached),
		slots:     slots(&o),
		info: hypervisor.Info{
			Driver: "qemu", Accelerator: o.Accelerator, Size: o.Size, OverheadMiB: OverheadMiB(o.Accelerator),
		},
	}
	devices := make([]hypervisor.Device, 0, len(o.Devices))
	for _, d := range o.Devices {
		copied, files, err := duplicate(d)
		if err != nil {
			closeAll(vm.coldFiles)
			return nil, err
		}
		vm.coldFiles = append(vm.coldFiles, files...)
		devices = append(devices, copied)
		vm.devices[d.DeviceID()] = &attached{}
	}
	o.Devices = devices
	if o.Memory != nil {
		memory, err := dupFile(o.Memory)
		if err != nil {
			closeAll(vm.coldFiles)
			return nil, err
		}
		vm.coldFiles = append(vm.coldFiles, memory)
		o.Memory = memory
	}
	vm.opts, vm.paused = o, o.Incoming
	if vm.starter == nil {
		vm.starter, vm.ownStarter = child.NewStarter(), true
	}
	return vm, nil
}

// Info describes the VM. It never blocks on QEMU.
func (vm *VM) Info() hypervisor.Info {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	info := vm.info
	info.VCPUThreads = append([]int(nil), vm.info.VCPUThreads...)
	switch {
	case vm.phase == phaseEnded:
		info.State = hypervisor.StateEnded
	case vm.phase == phaseNew || vm.phase == phaseStarting:
		info.State = hypervisor.StateNew
	case vm.paused:
		info.State = hypervisor.StatePaused
	default:
		info.State = hypervisor.StateRunning
	}
	return info
}

// Wait blocks until QEMU has ended; see hypervisor.VM.
func (vm *VM) Wait(ctx context.Context) error {
	select {
	case <-vm.ended:
		vm.mu.Lock()
		defer vm.mu.Unlock()
		return vm.outcome
	case <-ctx.Done():
		return fmt.Errorf("wait for VM %s: %w", vm.opts.Name, ctx.Err())
	}
}

// Stop kills QEMU and waits until all is released; see hypervisor.VM.
func (vm *VM) Stop(ctx context.Context) error {
	vm.mu.Lock()
	var err error
	switch vm.phase {
	case phaseNew:
		vm.mu.Unlock()
		vm.conclude(nil)
		return nil
	case phaseStarting, phaseRunning, phaseStopping:
		vm.phase = phaseStopping
		if vm.process != nil {
			err = vm.process.Kill()
		}
	case phaseEnded:
	}
	pid := vm.info.PID
	vm.mu.Unlock()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop VM %s: %w", vm.opts.Name, err)
	}
	if err := child.AwaitKilled(ctx, "QEMU", pid, vm.ended, vm.patience); err != nil {
		return fmt.Errorf("stop VM %s: %w", vm.opts.Name, err)
	}
	return nil
}

// Pause stops the vCPUs; see hypervisor.VM.
func (vm *VM) Pause(ctx context.Context) error { return vm.call(ctx, "stop", nil, nil) }

// Resume continues the vCPUs; see hypervisor.VM.
func (vm *VM) Resume(ctx context.Context) error { return vm.call(ctx, "cont", nil, nil) }

// running returns the QMP client of a VM that runs.
func (vm *VM) running() (*qmp.Client, error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	switch vm.phase {
	case phaseRunning:
		return vm.client, nil
	case phaseNew, phaseStarting:
		return nil, hypervisor.ErrNotRunning
	case phaseStopping, phaseEnded:
	}
	return nil, hypervisor.ErrEnded
}

// call executes a QMP command, and tells a VM that has ended from a command
// that was refused.
func (vm *VM) call(ctx context.Context, command string, arguments, result any) error {
	return vm.callWithFile(ctx, command, arguments, result, nil)
}

func (vm *VM) callWithFile(ctx context.Context, command string, arguments, result any, file *os.File) error {
	client, err := vm.running()
	if err != nil {
		return fmt.Errorf("VM %s: %s: %w", vm.opts.Name, command, err)
	}
	if file == nil {
		err = client.Execute(ctx, command, arguments, result)
	} else {
		err = client.ExecuteWithFile(ctx, command, arguments, result, file)
	}
	if errors.Is(err, qmp.ErrClosed) {
		err = fmt.Errorf("%w: %w", hypervisor.ErrEnded, err)
	}
	if err != nil {
		return fmt.Errorf("VM %s: %w", vm.opts.Name, err)
	}
	return nil
}

// Dial connects to a vsock port of the guest; see hypervisor.VM.
func (vm *VM) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if vm.opts.Vsock == nil {
		return nil, fmt.Errorf("dial vsock port %d: %w", port, hypervisor.ErrUnsupported)
	}
	if _, err := vm.running(); err != nil {
		return nil, fmt.Errorf("dial vsock port %d: %w", port, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	finished := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-vm.ended:
			cancel(hypervisor.ErrEnded)
		case <-finished:
		}
	})
	conn, err := vm.opts.Vsock.Dial(ctx, port)
	close(finished)
	watch.Wait()
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, hypervisor.ErrEnded) {
			err = cause
		}
		return nil, fmt.Errorf("dial vsock port %d: %w", port, err)
	}
	return conn, nil
}

// Listen takes the guest's connections; see hypervisor.VM. The listener closes
// when the VM has ended.
func (vm *VM) Listen(port uint32) (net.Listener, error) {
	if vm.opts.Vsock == nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, hypervisor.ErrUnsupported)
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.phase >= phaseStopping {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, hypervisor.ErrEnded)
	}
	inner, err := vm.opts.Vsock.Listen(port)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, err)
	}
	l := &listener{Listener: inner, vm: vm}
	vm.listeners[l] = struct{}{}
	return l, nil
}

// listener is a vsock listener that ends with its VM.
type listener struct {
	net.Listener
	vm *VM
}

// Close stops listening.
func (l *listener) Close() error {
	l.vm.mu.Lock()
	delete(l.vm.listeners, l)
	l.vm.mu.Unlock()
	return l.Listener.Close()
}
