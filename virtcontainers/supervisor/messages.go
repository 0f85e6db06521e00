package supervisor

import (
	"os"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/sizing"
)

// The versions of the private protocol (ttrpc service and channels) that this
// build speaks.
const (
	oldestVersion = 1
	newestVersion = 1
)

// Names of the files in a pod's state directory, see store.Entry.Path.
const (
	socketName  = "supervisor.sock"
	channelName = "channel.sock"
	shareName   = "share"
	logName     = "supervisor.log"
)

// Boot is the first message to a new supervisor. With it may come the end of a pipe, to
// be closed when the first container has started, or cannot any more.
type Boot struct {
	// Root is the state directory, ID the pod's and its first container's name.
	Root, ID string
	// Hostname is the pod's; empty: each container's own.
	Hostname string
	// Cgroup is the host's group of the first container, in which the pod's
	// own processes live too; nil for none.
	Cgroup *cgroup.Record
	// Demand is what the first container asks for, SandboxDemand what the pod
	// announced for all of them.
	Demand, SandboxDemand sizing.Demand
	// Interfaces is how many the pod's network namespace has already, with
	// whose NICs the machine starts.
	Interfaces int
	// HostNetwork tells that the pod shares the host's network, by way of one in
	// user space.
	HostNetwork bool
	Config      *config.Config
	Debug       bool
	// Caller is the command's pid, and Directory what it sees as Root: for a supervisor
	// that it has not started itself.
	Caller    int
	Directory Directory
}

// Directory names a directory, whatever its path is.
type Directory struct{ Device, Inode uint64 }

// directoryAt is the directory that this process sees at a path.
func directoryAt(path string) (Directory, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return Directory{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return Directory{Device: stat.Dev, Inode: stat.Ino}, nil
}

// Ready answers Boot and every message of a command, and opens a channel that
// was made by connecting.
type Ready struct {
	// Token names the channel in calls.
	Token string
	// Error is why the supervisor ends; Exists tells that the id is taken.
	Error  string
	Exists bool
	// Unfit is why a prepared supervisor cannot be the pod's.
	Unfit pool.Reason `json:",omitempty"`
}

// commandMessage is what a command says on its channel.
type commandMessage struct {
	// Files: the message carries mounts' files.
	Files bool `json:",omitempty"`
	// Network: the message carries the network namespace of the pod.
	Network bool `json:",omitempty"`
	// StandIn: the message carries the channel of this container's stand-in or,
	// with Process, of that process's.
	StandIn string `json:",omitempty"`
	Process string `json:",omitempty"`
	// Commit: what was created through this channel outlives it.
	Commit bool `json:",omitempty"`
}

// ToStandIn is what the supervisor says to a stand-in: one of its fields.
type ToStandIn struct {
	// Enter: the container's root file system is complete; enter it.
	Enter bool `json:",omitempty"`
	// Streams names the files that the message carries, in order: "stdin",
	// "stdout", "stderr".
	Streams []string `json:",omitempty"`
	// Exit is the process's exit code: the last message.
	Exit *int `json:",omitempty"`
}

// FromStandIn is what a stand-in says: one of its fields.
type FromStandIn struct {
	// Entered answers Enter; Error is why it could not.
	Entered bool   `json:",omitempty"`
	Error   string `json:",omitempty"`
	// Signal was received and is for the process.
	Signal int `json:",omitempty"`
	// Size is the terminal's, in characters.
	Size *Size `json:",omitempty"`
}

// Size is a terminal's, in characters.
type Size struct{ Rows, Columns uint16 }
