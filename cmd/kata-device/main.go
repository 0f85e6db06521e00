// Command kata-device serves one device of a pod's machine, and is the step that
// confines the machine's processes. kata-runtime and containerd-shim-kata-v2 start it.
package main

import (
	"fmt"
	"os"

	"kata-runtime/hypervisor/devices"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/virtcontainers/agent/reader"
)

// Stamped by the linker.
var (
	version = "0.0.0-dev"
	commit  = "unknown"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case jail.Command:
			os.Exit(jail.Become(os.Args[2:]))
		case backend.Command:
			os.Exit(devices.Run(os.Args[2:], map[string]devices.Other{reader.Role: reader.Run}))
		case "--version":
			fmt.Println(devices.Program, "version", version, "commit", commit)
			return
		}
	}
	fmt.Fprintln(os.Stderr, devices.Program, "is started by the runtime")
	os.Exit(1)
}
