package machine

import (
	"kata-runtime/hypervisor/devices"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/virtcontainers/agent/reader"
)

// BackendCommand is the hidden first argument under which a program that makes
// machines calls RunBackend, first of all: it is to inherit descriptors.
const BackendCommand = backend.Command

// RunBackend is the whole life of a process that serves one of a machine's devices.
// It returns the exit status. args follow BackendCommand.
func RunBackend(args []string) int {
	return devices.Run(args, map[string]devices.Other{reader.Role: reader.Run})
}
