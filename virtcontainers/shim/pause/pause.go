// Package pause is the first process of a pod whose containers share their
// processes, or have a user namespace: in the guest it lives in the namespaces that
// the containers join, reaps what they leave, and does nothing else. It takes the
// place of the pause image's program for a pod that has no sandbox container.
package pause

import (
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Command is the hidden first argument by which a program becomes a pause
// process. Path is where the program is in its root file system: what ps shows.
const (
	Command = "pause"
	Path    = "/pause"
)

// Run is a pause process's whole life. It returns the exit code.
func Run() int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	for {
		reap()
		if <-signals != unix.SIGCHLD {
			return 0
		}
	}
}

// reap takes the exit codes of all children that have ended.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if pid <= 0 {
			return
		}
	}
}
