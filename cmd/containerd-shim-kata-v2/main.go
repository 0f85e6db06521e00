// Command containerd-shim-kata-v2 is the shim by which containerd and CRI-O run
// pods in virtual machines, by containerd's own protocol.
package main

import (
	"os"

	"kata-runtime/virtcontainers/hooks"
	"kata-runtime/virtcontainers/shim/bootstrap"
	"kata-runtime/virtcontainers/standin"
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
		case standin.Command:
			return standin.Run()
		case hooks.Command:
			return hooks.Become(args[2:])
		}
	}
	program := bootstrap.Program{Version: version, Commit: commit}
	return program.Run(args[1:])
}
