package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
)

// Vsock is the host's end of the guest's vsock device, which Options.Devices
// holds as a *hypervisor.Vsock.
type Vsock interface {
	// Dial connects to a port of the guest.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Listen takes the guest's connections to a port of the host.
	Listen(port uint32) (net.Listener, error)
}

// Options describe a VM. New takes a copy; the devices' files are duplicated.
type Options struct {
	// Path is QEMU's program. Empty: qemu-system-x86_64 or
	// qemu-system-aarch64 in PATH.
	Path string
	// Architecture is "amd64" or "arm64". Empty: the host's. Another is emulated.
	Architecture string
	// Name is shown in the process list: 1-1100 printable ASCII characters.
	Name string
	// Accelerator is accel.KVM or accel.TCG, as accel.Select chose.
	Accelerator string
	// Kernel is a bzImage, or a vmlinux with a PVH entry point; Initrd may be
	// empty.
	Kernel, Initrd string
	// KernelParams follow the driver's own and override them.
	KernelParams []string
	// Size is what the VM starts with: at least 1 vCPU and 32 MiB.
	Size hypervisor.Size
	// MaxSize is what Resize may reach; a field that is 0 or below Size's
	// means Size's. On "arm64" the VM stays as it is.
	MaxSize hypervisor.Size
	// Memory is a file of memory with room for Size.MemoryMiB in which the guest's is,
	// and which stays the caller's: what Save does not write. The driver duplicates it.
	// Nil: the VM has its memory for itself.
	Memory *os.File
	// Incoming lets the VM wait after Start for what Restore brings: the state of a VM
	// with the same options, whose Memory was copied into this one's.
	Incoming bool
	// ReclaimMemory gives the host back what the guest frees of its memory, in blocks
	// of 2 MiB, within some seconds: the guest's kernel tells what is free (free page
	// reporting of virtio-balloon, Linux 5.7).
	ReclaimMemory bool
	// Devices are there from the start, in this order on the bus.
	Devices []hypervisor.Device
	// Vsock serves Dial and Listen. Nil: they return ErrUnsupported.
	Vsock Vsock
	// RootPorts is how many devices can be plugged into PCI Express ports at a
	// time, 0-32.
	RootPorts int
	// Bridges is how many PCI bridges there are, 0-4, each with room for 31
	// more devices. On "arm64" each is a few root ports instead, which take as long.
	Bridges int
	// Console gets what the guest writes to its console and to its serial port,
	// in order, until the VM ends. A Write that blocks makes the guest's console
	// wait; its error is ignored. Nil: the output is dropped.
	Console io.Writer
	// Starter forks QEMU. Nil: the VM makes one for itself.
	Starter *child.Starter
	// Jail confines QEMU; nil: it runs as this process does. A program that jails
	// it calls jail.Become, see there.
	Jail *jail.Options
	// Log gets debug messages. Nil: none.
	Log *slog.Logger

	// arch is Architecture's, after normalize.
	arch architecture
	// counterKHz is the frequency of the host's time stamp counter, 0 if it is not known.
	counterKHz int
}

const (
	maxRootPorts = 32
	maxBridges   = 4
	// portsForBridge is how many root ports stand for a bridge where there is none.
	portsForBridge = 4
	minMemoryMiB   = 32
	maxNameLen     = 1100
	maxParams      = 2047
)

var (
	errNoKernel = errors.New("no kernel")
	errNoMemory = errors.New("a VM that is to be restored has no file with its memory")
	errNoName   = fmt.Errorf("name is not 1-%d printable ASCII characters", maxNameLen)
)

// normalize fills in defaults and checks what needs no file system.
func (o *Options) normalize() error {
	if o.Architecture == "" {
		o.Architecture = runtime.GOARCH
	}
	var err error
	if o.arch, err = architectureOf(o.Architecture); err != nil {
		return err
	}
	if !o.arch.bridges {
		o.RootPorts, o.Bridges = min(o.RootPorts+portsForBridge*o.Bridges, max(o.RootPorts, maxRootPorts)), 0
	}
	if !o.arch.grows {
		o.MaxSize = o.Size
	}
	o.MaxSize.VCPUs = max(o.MaxSize.VCPUs, o.Size.VCPUs)
	o.MaxSize.MemoryMiB = max(o.MaxSize.MemoryMiB, o.Size.MemoryMiB)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Console == nil {
		o.Console = io.Discard
	}
	return o.validate()
}

func (o *Options) validate() error {
	switch {
	case len(o.Name) > maxNameLen || !regexp.MustCompile(`^[[:print:]]+$`).MatchString(o.Name):
		return fmt.Errorf("VM %q: %w", o.Name, errNoName)
	case o.Accelerator != accel.KVM && o.Accelerator != accel.TCG:
		return fmt.Errorf("accelerator %q: want %s or %s", o.Accelerator, accel.KVM, accel.TCG)
	case o.Kernel == "":
		return errNoKernel
	case o.Incoming && o.Memory == nil:
		return errNoMemory
	case o.Size.VCPUs < 1 || o.Size.MemoryMiB < minMemoryMiB:
		return fmt.Errorf("size of %d vCPUs and %d MiB: want at least 1 and %d",
			o.Size.VCPUs, o.Size.MemoryMiB, minMemoryMiB)
	case o.RootPorts < 0 || o.RootPorts > maxRootPorts:
		return fmt.Errorf("%d root ports: want 0-%d", o.RootPorts, maxRootPorts)
	case o.Bridges < 0 || o.Bridges > maxBridges:
		return fmt.Errorf("%d PCI bridges: want 0-%d", o.Bridges, maxBridges)
	case len(o.commandLine()) > maxParams:
		return fmt.Errorf("kernel parameters of %d bytes: want at most %d", len(o.commandLine()), maxParams)
	}
	ids := make(map[string]bool, len(o.Devices))
	for _, d := range o.Devices {
		if err := checkDevice(d); err != nil {
			return err
		}
		if ids[d.DeviceID()] {
			return fmt.Errorf("device %q: id is taken", d.DeviceID())
		}
		ids[d.DeviceID()] = true
	}
	return o.checkJail()
}

// checkHost finds what this host cannot do.
func (o *Options) checkHost() error {
	if o.Accelerator == accel.KVM && o.Architecture != runtime.GOARCH {
		return fmt.Errorf("a guest of %s by KVM on %s: %w", o.Architecture, runtime.GOARCH, hypervisor.ErrUnsupported)
	}
	return o.checkFiles()
}

// checkFiles finds missing files before QEMU is started, for a better message.
func (o *Options) checkFiles() error {
	files := map[string]string{"kernel": o.Kernel}
	if o.Initrd != "" {
		files["initrd"] = o.Initrd
	}
	for what, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("the guest's %s: %w", what, err)
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("the guest's %s %s: not a regular file", what, filepath.Clean(path))
		}
		if info.Size() == 0 { // of which QEMU says that it does not exist
			return fmt.Errorf("the guest's %s %s: an empty file", what, filepath.Clean(path))
		}
	}
	return nil
}
