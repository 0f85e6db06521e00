package container

import (
	"os"

	// Device rules: without it, libcontainer refuses every container.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"

	// The C constructor that joins and makes namespaces before Go starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

const initArgument = "init" // libcontainer's choice

// RunHelper does the work of this program when libcontainer started it to set up
// a container from inside, and then never returns. The main function calls it
// first, before anything that costs time.
func RunHelper() {
	if len(os.Args) == 2 && os.Args[1] == initArgument && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		libcontainer.Init()
	}
}
