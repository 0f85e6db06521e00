package container

import (
	"errors"
	"fmt"
	"os"
	"runtime"

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
			prepareHelper()
			libcontainer.Init()
		}
	case hookArgument:
		prepareHelper()
		fmt.Fprintln(os.Stderr, runHookProgram())
		os.Exit(hookFailure)
	}
}

// prepareHelper makes the calling thread fit to become another program. What
// fails is needed by few, and then shows.
func prepareHelper() {
	runtime.LockOSThread() // it is the thread that executes the program
	err := restoreSlack()
	if os.Getenv("_LIBCONTAINER_LOGLEVEL") == roomyLevel {
		err = errors.Join(err, makeRoom())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kata-agent:", err)
	}
}
