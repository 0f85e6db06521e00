package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/devices"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/passt"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/tail"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/hypervisor/vsock"
	"kata-runtime/virtcontainers/agent/reader"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/rootimage"
)

// Spec is what a pod's machine is made from.
type Spec struct {
	// ID is the pod's; the VMM shows it in the list of processes.
	ID string
	// Dir is the pod's private state directory, for the machine's sockets.
	Dir string
	// ShareDir is the directory that the guest sees.
	ShareDir string
	// Token goes into the kernel parameter protocol.TokenParameter.
	Token string
	// Size is what the machine starts with, MaxSize the most that it may get.
	Size, MaxSize hypervisor.Size
	// NICs are in the machine from the start.
	NICs []*hypervisor.NIC
	// HostNetwork connects the machine with the host's network, by way of one
	// in user space; nil: not.
	HostNetwork *network.HostNetwork
	// Saved is what the machine is restored from; nil: it boots.
	Saved  *Saved
	Config *config.Config
	Log    *slog.Logger
}

// Machine is a VM with its helpers. It implements virtcontainers.Machine; its
// methods may be called from any goroutine.
type Machine struct {
	hypervisor.VM
	vsock   vsock.Host
	ready   net.Listener
	starter *child.Starter
	console *tail.Buffer
	daemon  fileServer // nil with 9p
	// daemonName is what the daemon is called.
	daemonName string
	passt      *passt.Daemon // nil without the host's network
	user       *jail.User    // the VMM's; nil for root
	// reads says how reader is started; nil: nobody reads what the agent says but the pod's
	// owner.
	reads *backend.Options
	// program serves devices and confines processes; empty: this one.
	program string
	// passtUser is passt's; nil for none of its own.
	passtUser *jail.User
	// saved is what the machine is restored from, and plugged the devices that it gets
	// then; nil for one that boots.
	saved   *Saved
	plugged []hypervisor.Device

	mu sync.Mutex // guards the fields below
	// reader reads what the agent says once the machine was started, by way of reading.
	reader  *backend.Process
	reading *net.UnixConn
}

// New builds a machine whose VM has not been started: its helpers run, and its
// vsock can be listened on. Stop releases all of it. ctx bounds the call alone.
func New(ctx context.Context, spec Spec) (_ *Machine, err error) {
	settings := spec.Config.Hypervisor
	choice, err := selectAccelerator(ctx, settings)
	if err != nil {
		return nil, err
	}
	if choice.Warning {
		spec.Log.Warn("slow: no hardware virtualization", "accelerator", choice.Name, "reason", choice.Reason)
	}
	m := &Machine{starter: child.NewStarter(), console: tail.New(consoleSize)}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if m.program, err = devices.Find(); err != nil {
		return nil, err
	}
	if settings.Confine {
		if m.user, err = claimUser(settings); err != nil {
			return nil, fmt.Errorf("confine the machine's processes: %w", err)
		}
	}
	if err := verifyInitrd(settings.Initrd); err != nil {
		return nil, err
	}
	m.vsock, err = vsock.Open(ctx, vsock.Options{
		Mode: vsock.Mode(settings.Vsock), Program: m.program, Jail: m.jail(spec), Starter: m.starter, Log: spec.Log,
	})
	if err != nil {
		return nil, err
	}
	// The guest is told the port on its kernel's command line.
	if m.ready, err = m.vsock.Listen(protocol.ReadyPort); err != nil {
		return nil, err
	}
	devices, err := m.startHelpers(ctx, spec)
	if err != nil {
		return nil, err
	}
	params := m.kernelParams(spec)
	var memory *os.File
	if spec.Saved != nil {
		switch {
		case m.daemon == nil:
			return nil, errNotPlugged
		case settings.Image != "":
			return nil, errOnDisk
		}
		memory, m.saved, m.plugged, devices = spec.Saved.Memory, spec.Saved, devices, nil
	}
	if settings.Image != "" {
		image, err := rootimage.Open(settings.Image)
		if err != nil {
			return nil, err
		}
		defer image.Close() // the VM has a duplicate
		devices = append(devices, &hypervisor.Disk{ID: "guest-image", Serial: "guest-image", File: image.File(), ReadOnly: true})
		params = append(image.KernelParams(), params...)
	}
	if m.VM, err = m.newVM(spec, choice.Name, params, devices, m.confine(spec), memory); err != nil {
		return nil, err
	}
	return m, nil
}

// verifyInitrd compares an initrd, if there is one, with its manifest, once for as long as
// neither changes. What is not there the driver says.
func verifyInitrd(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	manifest := func() ([]string, error) { return []string{rootimage.ManifestPath(path)}, nil }
	_, err := jail.Recall(jail.DefaultDir, "initrd", path, manifest, func() (bool, error) { return true, rootimage.VerifyInitrd(path) })
	return err
}

// selectAccelerator chooses the accelerator of a machine: software alone runs another
// architecture.
func selectAccelerator(ctx context.Context, settings config.Hypervisor) (accel.Choice, error) {
	if settings.Emulated() {
		return accel.Choice{Name: accel.TCG, Reason: "a guest of " + settings.MachineArchitecture()}, nil
	}
	return accel.Select(ctx, settings.Accelerator)
}

// newVM lets the configured driver make the VM. It gets what every driver has, and
// its own table. memory is where the guest's is when it is saved or restored, or nil.
func (m *Machine) newVM(spec Spec, accelerator string, params []string, devices []hypervisor.Device, confinement *jail.Options, memory *os.File) (hypervisor.VM, error) {
	settings := spec.Config.Hypervisor
	switch settings.Driver {
	case config.DriverQEMU:
		vm, err := qemu.New(qemu.Options{
			Path: settings.QEMU.Path, Architecture: settings.MachineArchitecture(), Name: "kata-" + spec.ID, Accelerator: accelerator,
			Kernel: settings.Kernel, Initrd: settings.Initrd, KernelParams: params,
			Size: spec.Size, MaxSize: spec.MaxSize, ReclaimMemory: settings.ReclaimFreedMemory,
			Devices: devices,
			Memory:  memory, Incoming: m.saved != nil,
			Vsock:     m.vsock,
			RootPorts: settings.QEMU.PCIeRootPorts, Bridges: settings.QEMU.Bridges,
			Console: m.console, Starter: m.starter, Jail: confinement, Log: spec.Log,
		})
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; kata-runtime check says what is missing", err)
		}
		if err != nil {
			return nil, err // not vm, which would be no nil interface
		}
		return vm, nil
	default:
		return nil, fmt.Errorf("make a VM: there is no driver %q", settings.Driver)
	}
}

// startHelpers starts the daemons, and returns what the VM has from the start.
func (m *Machine) startHelpers(ctx context.Context, spec Spec) ([]hypervisor.Device, error) {
	share, err := m.startShare(ctx, spec)
	if err != nil {
		return nil, err
	}
	m.reads = m.readerOptions(spec)
	devices := []hypervisor.Device{m.vsock.Device(), share}
	for _, nic := range spec.NICs {
		devices = append(devices, nic)
	}
	if spec.HostNetwork == nil {
		return devices, nil
	}
	nic, err := m.startPasst(ctx, spec)
	if err != nil {
		return nil, err
	}
	return append(devices, nic), nil
}

func (m *Machine) startPasst(ctx context.Context, spec Spec) (_ *hypervisor.NIC, err error) {
	host, settings := spec.HostNetwork, spec.Config.Runtime
	options := passt.Options{
		TCPPorts: settings.HostTCPPorts, UDPPorts: settings.HostUDPPorts,
		Gateways: host.Gateways, Starter: m.starter, Log: spec.Log,
	}
	for _, address := range host.Addresses {
		options.Addresses = append(options.Addresses, address.GetAddress())
	}
	if options.Jail, err = m.passtJail(spec.Config); err != nil {
		return nil, err
	}
	if m.passt, err = passt.Start(ctx, options); err != nil {
		return nil, err
	}
	return &hypervisor.NIC{ID: "nic0", Stream: m.passt.Socket(), MAC: host.MAC}, nil
}

// kernelParams is what the guest's command line has besides the driver's own.
func (m *Machine) kernelParams(spec Spec) []string {
	params := []string{protocol.TokenParameter + "=" + spec.Token}
	if port := hypervisor.DialedPort(m.ready); port != protocol.ReadyPort {
		params = append(params, fmt.Sprintf("kata.ready_port=%d", port))
	}
	return append(params, strings.Fields(spec.Config.Hypervisor.KernelParams)...)
}

// Ready takes the guest's connection to protocol.ReadyPort. It is there from the
// start: the guest knows its port before it runs. Whoever reads it closes it.
func (m *Machine) Ready() net.Listener { return m.ready }

// User is the VMM's user id, which no other pod has; 0: it is root's.
func (m *Machine) User() int {
	if m.user == nil {
		return 0
	}
	return m.user.ID
}

// Vsock names the transport of vsock: "vhost" or "user".
func (m *Machine) Vsock() string { return m.vsock.Kind() }

// Helpers are the processes of the machine beside its VMM, by their names.
func (m *Machine) Helpers() map[string]int {
	helpers := make(map[string]int)
	if m.daemon != nil {
		helpers[m.daemonName] = m.daemon.PID()
	}
	if m.passt != nil {
		helpers["passt"] = m.passt.PID()
	}
	if helper := m.vsock.Helper(); helper != nil {
		helpers["vsock"] = helper.PID()
	}
	if process, _ := m.readerProcess(); process != nil {
		helpers[reader.Role] = process.PID()
	}
	return helpers
}

// errDaemonQuit is the end of a file server or passt without an error: the VMM has hung up.
var errDaemonQuit = errors.New("its connection to the VMM was closed")

// Wait is that of hypervisor.VM, and returns also when a helper has ended.
func (m *Machine) Wait(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 5)
	var waiting sync.WaitGroup
	waiting.Go(func() { ended <- m.VM.Wait(ctx) })
	await := func(name string, helper interface {
		Wait(ctx context.Context) error
	},
	) {
		waiting.Go(func() {
			err := helper.Wait(ctx)
			if err == nil {
				err = errDaemonQuit
			}
			ended <- fmt.Errorf("%s has ended: %w", name, err)
		})
	}
	if m.daemon != nil {
		await(m.daemonName, m.daemon)
	}
	if m.passt != nil {
		await("passt", m.passt.Helper)
	}
	if helper := m.vsock.Helper(); helper != nil {
		await("the vsock device's process", helper)
	}
	if process, _ := m.readerProcess(); process != nil {
		waiting.Go(func() {
			// Without an error its owner has hung up, who knows why, or will hear of it.
			if err := process.Wait(ctx); err != nil {
				ended <- fmt.Errorf("the process that reads what the agent says has ended: %w", err)
			}
		})
	}
	err := <-ended
	cancel()
	waiting.Wait()
	return err
}

// Stop is that of hypervisor.VM, and releases the helpers too. All are ended at once: each
// takes a while to let go of the guest's memory, and none needs another for it.
func (m *Machine) Stop(ctx context.Context) error {
	var stopping sync.WaitGroup
	var errs [5]error
	if m.VM != nil {
		stopping.Go(func() { errs[0] = m.VM.Stop(ctx) })
	}
	if m.daemon != nil {
		stopping.Go(func() { errs[1] = m.daemon.Stop() })
	}
	if m.passt != nil {
		stopping.Go(func() { errs[2] = m.passt.Stop() })
	}
	if m.vsock != nil {
		stopping.Go(func() { errs[3] = m.vsock.Close() }) // with its listeners
	}
	stopping.Go(func() { errs[4] = m.stopReader() })
	stopping.Wait()
	m.starter.Close()
	err := errors.Join(errs[:]...)
	if err == nil {
		m.user.Release()
		m.passtUser.Release()
	}
	return err
}
