package container

import (
	"fmt"
	"os"
	"os/signal"

	// Device rules: without it, libcontainer refuses every container.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"

	// The C constructor that joins and makes namespaces before Go starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	"golang.org/x/sys/unix"
)

const (
	initArgument = "init" // libcontainer's choice
	holdArgument = "hold"
)

// RunHelper does the work of this program when the agent started it for a
// purpose other than being the agent, and then never returns: setting up a
// container from inside, becoming a hook there, or holding a namespace. The main function calls it
// first, before anything that costs time.
func RunHelper() {
	if len(os.Args) != 2 {
		return
	}
	switch os.Args[1] {
	case initArgument:
		if os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
			libcontainer.Init()
		}
	case hookArgument:
		fmt.Fprintln(os.Stderr, runHookProgram())
		os.Exit(hookFailure)
	case holdArgument:
		hold()
	}
}

// hold is the first process of a PID namespace that containers share: it
// reaps what they leave, and ends only when it is killed.
func hold() {
	signal.Ignore()
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for range children {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.EINTR && (pid <= 0 || err != nil) {
				break
			}
		}
	}
}
