// Command containerd-shim-kata-v2 is the shim by which containerd and CRI-O run
// pods in virtual machines, by containerd's own protocol.
package main

import (
	"context"
	"os"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/hooks"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/shim"
	"kata-runtime/virtcontainers/shim/bootstrap"
	"kata-runtime/virtcontainers/shim/pause"
)

// Stamped by the linker.
var (
	version = "0.0.0-dev"
	commit  = "unknown"
)

func main() {
	os.Exit(dispatch(os.Args))
}

// dispatch knows the hidden first arguments by which the program becomes the
// processes that a pod has beside its server.
func dispatch(args []string) int {
	if len(args) > 1 {
		switch args[1] {
		case holder.Command:
			return holder.Run(args[2:])
		case jail.Command:
			return jail.Become(args[2:])
		case machine.BackendCommand:
			return machine.RunBackend(args[2:])
		case hooks.Command:
			return hooks.Become(args[2:])
		case pause.Command:
			return pause.Run()
		}
	}
	program := bootstrap.Program{Version: version, Commit: commit, Serve: serve}
	return program.Run(args[1:])
}

func serve(ctx context.Context, s bootstrap.Server) error {
	return shim.Serve(ctx, shim.Options{
		Listener: s.Listener, Namespace: s.Namespace, ID: s.ID, EventsAddress: s.TTRPCAddress, Root: s.StateRoot,
		Runtime: s.Options, HostMounts: s.HostMounts, Rlimits: s.Rlimits, Log: s.Log,
	})
}
