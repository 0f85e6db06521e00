package main

import (
	"errors"
	"os/exec"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/network"
)

// checkNetwork tries what the configured way of connecting pods needs. A host
// without it can still run pods that have no network.
func checkNetwork(settings config.Runtime) finding {
	f := finding{Name: "network", Status: statusOK, Value: settings.NetworkModel}
	if settings.HostNetwork == config.HostNetworkPasst {
		if _, err := exec.LookPath("passt"); err != nil {
			f.Status, f.Detail = statusWarning, "host_network is passt, which is not installed"
			f.NextStep = "install it (Debian: apt-get install passt)"
			return f
		}
	}
	if settings.NetworkModel != config.NetworkTC {
		return f
	}
	err := network.Check()
	switch {
	case errors.Is(err, network.ErrNoTap):
		f.Status, f.Detail, f.NextStep = statusWarning, err.Error(), "load the module: modprobe tun"
	case err != nil:
		f.Status, f.Detail = statusWarning, err.Error()
		f.NextStep = "load the kernel modules sch_ingress, cls_u32 and act_mirred, or set internetworking_model"
	}
	return f
}
