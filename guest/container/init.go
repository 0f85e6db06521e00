package container

import (
	"fmt"
	"os"

	// Device rules: without it, libcontainer refuses every container.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"

	// The C constructor that joins and makes namespaces before Go starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

const initArgument = "init" // libcontainer's choice

// RunHelper does the work of this program when it was started to set up a
// container from inside, or to become a hook there, and then never returns. The
// main function calls it first, before anything that costs time.
func RunHelper() {
	if len(os.Args) != 2 {
		return
	}
	switch os.Args[1] {
	case initArgument:
		if os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
			if err := makeRoom(); err != nil { // the container may have no limits
				fmt.Fprintln(os.Stderr, "kata-agent:", err)
			}
			libcontainer.Init()
		}
	case hookArgument:
		fmt.Fprintln(os.Stderr, runHookProgram())
		os.Exit(hookFailure)
	}
}
