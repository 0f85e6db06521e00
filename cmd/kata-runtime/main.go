// Command kata-runtime is an OCI runtime that runs every pod in a virtual
// machine of its own. It is also, under hidden first arguments, the kinds of
// process that stay, a pod's supervisor, its device processes and a container's
// stand-in, and the step that confines a VMM.
package main

import (
	"fmt"
	"os"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/virtcontainers/hooks"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/standin"
)

// Stamped by the linker.
var (
	version = "0.0.0-dev"
	commit  = "unknown"
)

func main() {
	// They are to inherit descriptors, and have no time to lose.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case jail.Command:
			os.Exit(jail.Become(os.Args[2:]))
		case machine.BackendCommand:
			os.Exit(machine.RunBackend(os.Args[2:]))
		}
	}
	// Whatever the caller left open must not stay open in a process that
	// outlives this one: callers wait for the end of their pipes.
	if err := closeOnExec(); err != nil {
		fmt.Fprintln(os.Stderr, "kata-runtime:", err)
		os.Exit(1)
	}
	os.Exit(dispatch(os.Args))
}

func dispatch(args []string) int {
	if len(args) > 1 {
		switch args[1] {
		case standin.Command:
			nameProcess("kata-stand-in")
			return standin.Run()
		case supervisorCommand:
			nameProcess("kata-supervisor")
			return runSupervisor()
		case hooks.Command:
			return hooks.Become(args[2:])
		}
	}
	return runCommandLine(args)
}

// nameProcess sets what ps and top show, at most 15 bytes: without it that is
// "exe", for /proc/self/exe. Nothing depends on it.
func nameProcess(name string) {
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
}
