package monitor

import "kata-runtime/virtcontainers/metrics"

// socketName is that of the socket in the pod's state directory, see
// store.Entry.Path. The network is unixpacket.
const (
	socketName = "monitor.sock"
	network    = "unixpacket"
)

// request is the first message of a command.
type request struct {
	Metrics   bool         `json:",omitempty"`
	Processes bool         `json:",omitempty"`
	Exec      *execRequest `json:",omitempty"`
}

// execRequest asks for a process in the guest. The files of its streams come with
// it: pipes that the owner reads or writes.
type execRequest struct {
	// Process is a specs.Process, for the guest.
	Process []byte
	// Streams are those of the files, in their order: stdin, stdout or stderr.
	Streams []string
}

// Process is a process of the host that belongs to the pod.
type Process struct {
	// Role is what it does there.
	Role string
	// PID and Start, in clock ticks since the host's boot, name it for good.
	PID   int
	Start uint64
}

// control is what a command says to its process.
type control struct {
	Size *size `json:",omitempty"`
}

// size is a terminal's, in characters.
type size struct{ Rows, Columns uint16 }

// answer is what the owner says.
type answer struct {
	Error string `json:",omitempty"`
	// Forbidden: the error is that of the configuration.
	Forbidden bool `json:",omitempty"`

	Samples   []metrics.Sample `json:",omitempty"`
	Processes []Process        `json:",omitempty"`
	// More: another message has more samples.
	More bool `json:",omitempty"`

	Started bool `json:",omitempty"`
	// Exit is the process's exit code, after all of its output.
	Exit *int `json:",omitempty"`
}
