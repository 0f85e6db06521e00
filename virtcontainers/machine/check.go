package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"

	"kata-runtime/hypervisor/fileserver"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/virtiofsd"
	"kata-runtime/hypervisor/vsock"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/network"
)

// Finding is what check says about one thing that a VM needs.
type Finding struct {
	Name string `json:"name"`
	// Status is one of the constants below.
	Status string `json:"status"`
	// Value is what will be used.
	Value string `json:"value,omitempty"`
	// Detail says why.
	Detail string `json:"detail,omitempty"`
	// NextStep is what the reader can do about it.
	NextStep string `json:"nextStep,omitempty"`
}

// What a Finding may say.
const (
	StatusOK = "ok"
	// StatusWarning: it works, but worse than it could.
	StatusWarning = "warning"
	// StatusMissing: no VM can run.
	StatusMissing = "missing"
)

// Check tells whether this host has what the configured machines need, and what
// they will use. It may start programs, and a VM for a moment.
func Check(ctx context.Context, settings *config.Config) []Finding {
	return []Finding{
		checkAccelerator(ctx, settings.Hypervisor),
		checkDriver(ctx, settings.Hypervisor),
		checkConfinement(ctx, settings.Hypervisor),
		checkShare(settings.Hypervisor),
		checkVsock(ctx, settings.Hypervisor),
		checkNetwork(settings.Runtime),
	}
}

// Programs are the paths of the programs that the configured machines consist of, or
// may: where nothing is named, each place that is searched.
func Programs(settings config.Hypervisor) []string {
	programs := []string{settings.QEMU.Path}
	switch settings.VirtioFSDaemon {
	case config.FileServer: // is the runtime's own
		return programs
	case "":
		return append(programs, virtiofsd.SearchPaths()...)
	default:
		return append(programs, settings.VirtioFSDaemon)
	}
}

func checkAccelerator(ctx context.Context, settings config.Hypervisor) Finding {
	f := Finding{Name: "accelerator", Status: StatusOK}
	choice, err := selectAccelerator(ctx, settings)
	if err != nil {
		f.Status, f.Detail, f.NextStep = StatusMissing, err.Error(), `set accelerator = "auto", or enable virtualization in the firmware`
		return f
	}
	f.Value, f.Detail = choice.Name, choice.Reason
	if choice.Warning {
		f.Status, f.NextStep = StatusWarning, "for speed, use a host with hardware virtualization (nested, if it is a VM)"
	}
	return f
}

func checkDriver(ctx context.Context, settings config.Hypervisor) Finding {
	switch settings.Driver {
	case config.DriverQEMU:
		return checkQEMU(ctx, settings.QEMU)
	default:
		return Finding{
			Name: "driver", Status: StatusMissing, Value: settings.Driver,
			Detail: "there is no such driver", NextStep: "set driver in [hypervisor]",
		}
	}
}

func checkQEMU(ctx context.Context, settings config.QEMU) Finding {
	f := Finding{Name: "qemu", Status: StatusOK}
	path, err := qemu.Find(settings.Path)
	if err == nil {
		f.Value = path
		f.Detail, err = qemu.Version(ctx, path)
	}
	if err != nil {
		f.Status, f.Detail, f.NextStep = StatusMissing, err.Error(), "install it (Debian: apt-get install qemu-system-x86) or set path in [hypervisor.qemu]"
	}
	return f
}

func checkShare(settings config.Hypervisor) Finding {
	f := Finding{Name: "virtiofsd", Status: StatusOK}
	if settings.SharedFS == config.SharedFS9P {
		f.Value, f.Detail = "virtio-9p", "shared_fs says so; no daemon is needed"
		return f
	}
	if settings.VirtioFSDaemon == config.FileServer {
		f.Name, f.Value, f.Detail = fileserver.Name, fileserver.Name, "part of the runtime"
		return f
	}
	daemon, err := virtiofsd.Find(settings.VirtioFSDaemon)
	if err == nil {
		f.Value, f.Detail = daemon.Path, strings.TrimSpace(fmt.Sprintf("%v %s", daemon.Kind, daemon.Version))
		return f
	}
	f.Detail = err.Error()
	f.NextStep = "install it (Debian 12: it comes with qemu-system-common; later: apt-get install virtiofsd)"
	f.Status = StatusMissing
	if fallsBackTo9P(settings, err) {
		f.Status, f.Value = StatusWarning, "virtio-9p"
	}
	return f
}

func checkVsock(ctx context.Context, settings config.Hypervisor) Finding {
	f := Finding{Name: "vsock", Status: StatusOK}
	host, err := vsock.Open(ctx, vsock.Options{Mode: vsock.Mode(settings.Vsock), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Status, f.Detail, f.NextStep = StatusMissing, err.Error(), `set vsock = "auto", or load the module: modprobe vhost_vsock`
		return f
	}
	f.Value = host.Kind()
	if f.Value == config.VsockUser {
		f.Detail = "served by the runtime itself (vhost-user)"
	}
	if err := host.Close(); err != nil {
		f.Status, f.Detail = StatusWarning, err.Error()
	}
	return f
}

// checkNetwork tries what the configured way of connecting pods needs. A host
// without it can still run pods that have no network.
func checkNetwork(settings config.Runtime) Finding {
	f := Finding{Name: "network", Status: StatusOK, Value: settings.NetworkModel}
	if settings.HostNetwork == config.HostNetworkPasst {
		if _, err := exec.LookPath("passt"); err != nil {
			f.Status, f.Detail = StatusWarning, "host_network is passt, which is not installed"
			f.NextStep = "install it (Debian: apt-get install passt)"
			return f
		}
		// passt makes one for itself, confined or not.
		if data, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err == nil && strings.TrimSpace(string(data)) == "0" {
			f.Status, f.Detail = StatusWarning, "host_network is passt, which needs a user namespace, and user.max_user_namespaces is 0"
			f.NextStep = "set it higher (sysctl -w user.max_user_namespaces=65536), or set host_network"
			return f
		}
	}
	if settings.NetworkModel != config.NetworkTC {
		return f
	}
	err := network.Check()
	switch {
	case errors.Is(err, network.ErrNoTap):
		f.Status, f.Detail, f.NextStep = StatusWarning, err.Error(), "load the module: modprobe tun"
	case err != nil:
		f.Status, f.Detail = StatusWarning, err.Error()
		f.NextStep = "load the kernel modules sch_ingress, cls_u32 and act_mirred, or set internetworking_model"
	}
	return f
}
