package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/passt"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/tail"
	"kata-runtime/hypervisor/virtiofsd"
	"kata-runtime/hypervisor/vsock"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/supervisor"
)

const (
	// shareTag is the name by which the guest mounts the pod's share.
	shareTag = "kata"
	// consoleLines is how much of the guest's console an error quotes.
	consoleLines = 12
	// tracedLines is how far back a kernel's panic is looked for.
	tracedLines = 200
)

// machine is a QEMU VM with its vsock and the daemon that serves its share. It
// implements virtcontainers.Machine.
type machine struct {
	spec    supervisor.MachineSpec
	choice  accel.Choice
	vsock   vsock.Host
	starter *child.Starter
	console *tail.Buffer

	mu     sync.Mutex // guards what Start makes
	vm     *qemu.VM
	daemon *virtiofsd.Daemon // nil with 9p
	passt  *passt.Daemon     // nil without the host's network
}

var _ virtcontainers.Machine = (*machine)(nil)

// newMachine picks the accelerator and the vsock transport. It is the
// supervisor's MachineMaker.
func newMachine(ctx context.Context, spec supervisor.MachineSpec) (virtcontainers.Machine, string, error) {
	choice, err := accel.Select(ctx, spec.Config.Hypervisor.Accelerator)
	if err != nil {
		return nil, "", err
	}
	if choice.Warning {
		spec.Log.Warn("slow: no hardware virtualization", "accelerator", choice.Name, "reason", choice.Reason)
	}
	transport, err := vsock.Open(ctx, vsock.Mode(spec.Config.Hypervisor.Vsock), spec.Log)
	if err != nil {
		return nil, "", err
	}
	return &machine{
		spec: spec, choice: choice, vsock: transport, starter: child.NewStarter(), console: tail.New(consoleSize),
	}, transport.Kind(), nil
}

// consoleSize is how much of the guest's console is kept, in bytes.
const consoleSize = 64 << 10

// Start implements virtcontainers.Machine.
func (m *machine) Start(ctx context.Context) error {
	vm, err := m.build(ctx)
	if err != nil {
		return err
	}
	return vm.Start(ctx)
}

// build starts the share's daemon and makes the VM around it.
func (m *machine) build(ctx context.Context) (*qemu.VM, error) {
	settings := m.spec.Config.Hypervisor
	share, daemon, err := m.startShare(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.daemon = daemon
	devices, err := m.devices(ctx, share)
	if err != nil {
		return nil, err
	}
	m.vm, err = qemu.New(qemu.Options{
		Path: settings.Path, Name: "kata-" + m.spec.ID, Accelerator: m.choice.Name,
		Kernel: settings.Kernel, Initrd: settings.Initrd, KernelParams: m.kernelParams(),
		Size: m.spec.Size, MaxSize: m.spec.MaxSize,
		Devices:   devices,
		Vsock:     m.vsock,
		RootPorts: settings.PCIeRootPorts, Bridges: settings.Bridges,
		Console: m.console, Starter: m.starter, Log: m.spec.Log,
	})
	return m.vm, err
}

// devices are what the VM has from the start. The caller holds mu.
func (m *machine) devices(ctx context.Context, share *hypervisor.Share) ([]hypervisor.Device, error) {
	devices := []hypervisor.Device{m.vsock.Device(), share}
	for _, nic := range m.spec.NICs {
		devices = append(devices, nic)
	}
	if m.spec.HostNetwork == nil {
		return devices, nil
	}
	var err error
	if m.passt, err = m.startPasst(ctx, m.spec.HostNetwork); err != nil {
		return nil, err
	}
	return append(devices, &hypervisor.NIC{ID: "nic0", Stream: m.passt.Socket(), MAC: m.spec.HostNetwork.MAC}), nil
}

func (m *machine) startPasst(ctx context.Context, host *network.HostNetwork) (*passt.Daemon, error) {
	options := passt.Options{
		TCPPorts: m.spec.Config.Runtime.HostTCPPorts, UDPPorts: m.spec.Config.Runtime.HostUDPPorts,
		Gateways: host.Gateways, Starter: m.starter, Log: m.spec.Log,
	}
	for _, address := range host.Addresses {
		options.Addresses = append(options.Addresses, address.GetAddress())
	}
	return passt.Start(ctx, options)
}

// startShare makes the device that the guest mounts: virtiofs where there is a
// virtiofsd, otherwise 9p.
func (m *machine) startShare(ctx context.Context) (*hypervisor.Share, *virtiofsd.Daemon, error) {
	settings := m.spec.Config.Hypervisor
	share := &hypervisor.Share{ID: "share0", Tag: shareTag}
	if !useVirtioFS(settings) {
		share.Directory = m.spec.ShareDir
		return share, nil, nil
	}
	daemon, err := virtiofsd.Start(ctx, virtiofsd.Options{
		Path: settings.VirtioFSDaemon, SharedDir: m.spec.ShareDir, Cache: settings.VirtioFSCache,
		ExtraArgs: settings.VirtioFSExtraArgs, SocketDir: m.spec.Dir, Starter: m.starter, Log: m.spec.Log,
	})
	if err != nil {
		return nil, nil, err
	}
	share.Socket = daemon.Socket()
	return share, daemon, nil
}

// useVirtioFS resolves shared_fs.
func useVirtioFS(settings config.Hypervisor) bool {
	switch settings.SharedFS {
	case config.SharedFSVirtioFS:
		return true
	case config.SharedFS9P:
		return false
	default:
		_, err := virtiofsd.Find(settings.VirtioFSDaemon)
		return err == nil
	}
}

// kernelParams is what the guest's command line has besides the driver's own.
func (m *machine) kernelParams() []string {
	params := []string{protocol.TokenParameter + "=" + m.spec.Token}
	if port := m.vsock.GuestPort(protocol.ReadyPort); port != protocol.ReadyPort {
		params = append(params, fmt.Sprintf("kata.ready_port=%d", port))
	}
	return append(params, strings.Fields(m.spec.Config.Hypervisor.KernelParams)...)
}

// Wait implements virtcontainers.Machine.
func (m *machine) Wait(ctx context.Context) error {
	vm, daemon := m.parts()
	if vm == nil {
		return hypervisor.ErrNotRunning
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 3)
	var waiting sync.WaitGroup
	waiting.Go(func() { ended <- vm.Wait(ctx) })
	if daemon != nil {
		waiting.Go(func() { ended <- fmt.Errorf("virtiofsd has ended: %w", daemonEnd(daemon.Wait(ctx))) })
	}
	if userNetwork := m.userNetwork(); userNetwork != nil {
		waiting.Go(func() { ended <- fmt.Errorf("passt has ended: %w", daemonEnd(userNetwork.Wait(ctx))) })
	}
	err := <-ended
	cancel()
	waiting.Wait()
	return err
}

// errDaemonQuit is the end of a virtiofsd or passt without an error: the VMM has hung up.
var errDaemonQuit = errors.New("its connection to the VMM was closed")

func daemonEnd(err error) error {
	if err == nil {
		return errDaemonQuit
	}
	return err
}

func (m *machine) parts() (*qemu.VM, *virtiofsd.Daemon) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vm, m.daemon
}

func (m *machine) userNetwork() *passt.Daemon {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.passt
}

// Stop implements virtcontainers.Machine.
func (m *machine) Stop(ctx context.Context) error {
	vm, daemon := m.parts()
	var errs []error
	if vm != nil {
		errs = append(errs, vm.Stop(ctx))
	}
	if daemon != nil {
		errs = append(errs, daemon.Stop())
	}
	if userNetwork := m.userNetwork(); userNetwork != nil {
		errs = append(errs, userNetwork.Stop())
	}
	errs = append(errs, m.vsock.Close())
	m.starter.Close()
	return errors.Join(errs...)
}

// Info implements virtcontainers.Machine.
func (m *machine) Info() hypervisor.Info {
	if vm, _ := m.parts(); vm != nil {
		return vm.Info()
	}
	return hypervisor.Info{Accelerator: m.choice.Name}
}

// Dial implements virtcontainers.Machine.
func (m *machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return m.vsock.Dial(ctx, port)
}

// Listen implements virtcontainers.Machine.
func (m *machine) Listen(port uint32) (net.Listener, error) { return m.vsock.Listen(port) }

// Attach implements virtcontainers.Machine.
func (m *machine) Attach(ctx context.Context, device hypervisor.Device) error {
	vm, _ := m.parts()
	if vm == nil {
		return hypervisor.ErrNotRunning
	}
	return vm.Attach(ctx, device)
}

// Detach implements virtcontainers.Machine.
func (m *machine) Detach(ctx context.Context, id string) error {
	vm, _ := m.parts()
	if vm == nil {
		return hypervisor.ErrNotRunning
	}
	return vm.Detach(ctx, id)
}

// Resize implements virtcontainers.Machine.
func (m *machine) Resize(ctx context.Context, size hypervisor.Size) (hypervisor.Size, error) {
	vm, _ := m.parts()
	if vm == nil {
		return hypervisor.Size{}, hypervisor.ErrNotRunning
	}
	return vm.Resize(ctx, size)
}

// GuestPort implements virtcontainers.Machine.
func (m *machine) GuestPort(port uint32) uint32 { return m.vsock.GuestPort(port) }

// ConsoleTail implements virtcontainers.Machine.
func (m *machine) ConsoleTail() string {
	return strings.Join(lastWords(m.console.Lines(tracedLines)), "\n")
}

// lastWords picks the lines that an error quotes: the last ones or, when the
// kernel panicked, those up to the line that says why, which a long trace
// follows.
func lastWords(lines []string) []string {
	panicked := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, "Kernel panic") })
	if panicked >= 0 {
		lines = lines[:panicked+1]
	}
	return lines[max(0, len(lines)-consoleLines):]
}

// AwaitConsole implements virtcontainers.Machine.
func (m *machine) AwaitConsole(ctx context.Context, text string) error {
	return m.console.WaitLine(ctx, text)
}

// Share implements virtcontainers.Machine.
func (m *machine) Share() *protocol.Share {
	share := &protocol.Share{Tag: shareTag, Fstype: "virtiofs", MountPoint: protocol.ShareMountPoint}
	if _, daemon := m.parts(); daemon == nil {
		share.Fstype = "9p"
		share.Options = []string{"trans=virtio", "version=9p2000.L", "msize=512000", "cache=mmap", "access=any"}
	}
	return share
}
