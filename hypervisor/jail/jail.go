package jail

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is the hidden first argument under which a program calls Become.
const Command = "jail"

// Self is, as a command's path, this program itself: it plays another part in a
// jail whose root need not show it. A dynamic one needs SelfLibraries there.
const Self = "/proc/self/exe"

// exitStatus is that of a step that failed, as a shell's for a program that it
// cannot start.
const exitStatus = 126

// Namespaces that a process can get for itself.
const (
	// Empty are those in which it finds nothing.
	Empty = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	// Names are those that take away no more than names.
	Names = unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
)

// Spec says what a process keeps.
type Spec struct {
	// Namespaces are flags of clone(2).
	Namespaces uintptr `json:"namespaces,omitempty"`
	// Root is the content of its root file system; nil: it sees its parent's.
	// It takes a mount namespace.
	Root *Root `json:"root,omitempty"`
	// User is its user and group; 0: root.
	User int `json:"user,omitempty"`
	// Capabilities are those, by number, that it may have; all others are taken
	// from its bounding set as well. A root gets them by its user id, any other user
	// as ambient ones.
	Capabilities []uintptr `json:"capabilities,omitempty"`
	// SystemCalls filters its system calls; nil: not.
	SystemCalls *SystemCalls `json:"systemCalls,omitempty"`
	// MaxFiles is its limit of open files, if this process may set it so high;
	// MaxThreads that of the threads of its user. 0: this process's.
	MaxFiles   uint64 `json:"maxFiles,omitempty"`
	MaxThreads uint64 `json:"maxThreads,omitempty"`
	// Without names Parts that are left out of all that, for a host that forbids them.
	Without []string `json:"without,omitempty"`
	// Step is the program that confines itself and becomes the process: it calls Become
	// under Command. Empty: this program.
	Step string `json:"-"`
}

// request is what the step is told, as JSON.
type request struct {
	Spec
	// Path and Args are the process's.
	Path string   `json:"path"`
	Args []string `json:"args"`
	// Inherited is how many descriptors it has besides the standard ones.
	Inherited int `json:"inherited"`
}

// Confine changes a command that was not started so that its process is
// confined. Its standard error must become a pipe that this process reads, as it
// does for an io.Writer of a command: by that the step sees whether its parent is
// alive. A command whose program is the step's plays another part in a jail whose root
// need not show it.
func Confine(cmd *exec.Cmd, spec Spec) error {
	spec.leaveOut()
	path := cmd.Path
	if path == spec.Step {
		path = Self
	}
	data, err := json.Marshal(request{Spec: spec, Path: path, Args: cmd.Args, Inherited: len(cmd.ExtraFiles)})
	if err != nil {
		return fmt.Errorf("confine %s: %w", cmd.Path, err)
	}
	cmd.Path, cmd.Args = cmp.Or(spec.Step, Self), []string{"kata-jail", Command, string(data)}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= spec.Namespaces
	return nil
}

// Options are what starts of one machine's processes have in common.
type Options struct {
	// Dir is a directory of root's alone, for what Remember keeps: DefaultDir,
	// for most.
	Dir string
	// User is the processes' user and group id; 0: they are a root without
	// capabilities.
	User int
	// Without is that of each Spec.
	Without []string
	// LogCalls lets the kernel log system calls that a filter refuses.
	LogCalls bool
	// Step is that of each Spec.
	Step string
}
