package protocol

// Version is the version of the agent protocol that this build speaks. Both
// sides refuse a peer with another one.
const Version uint32 = 1

const (
	// AgentPort is the vsock port on which the agent serves ttrpc.
	AgentPort uint32 = 1024
	// StreamPort is the vsock port on which the agent takes stdio streams,
	// each opened with a StreamHeader.
	StreamPort uint32 = 1025
	// ReadyPort is the host's vsock port that the agent dials once, when it
	// serves both of its own ports.
	ReadyPort uint32 = 1026
	// SocketPort is the host's vsock port that relays connections to its unix
	// sockets, see package relay.
	SocketPort uint32 = 1027
	// ForwardPort is the vsock port on which the agent takes connections that
	// were made to loopback in the pod's namespace on the host, for servers on
	// the guest's.
	ForwardPort uint32 = 1028
	// LoopbackPort is the host's vsock port that relays connections to
	// LoopbackServices.
	LoopbackPort uint32 = 1029
)

const (
	// HostCID is the vsock address of the host, the only peer that the agent
	// serves.
	HostCID uint32 = 2
	// TokenParameter is the kernel parameter that carries the one-time token
	// of the ready message, as hexadecimal text.
	TokenParameter = "kata.token"
	// TemplateParameter set to 1 tells the guest that it has no vsock device yet, and is
	// to be saved: it gets one, and a token of no use, in each copy.
	TemplateParameter = "kata.template"
	// TemplateMarker is the line that the agent of such a guest writes to the console
	// when it waits for the host.
	TemplateMarker = "kata-agent: waits for the host"
	// InitMarker is the line that the guest's PID 1 writes to the console
	// first of all: the kernel has booted.
	InitMarker = "kata-init: started"
)

// ShareMountPoint is where the guest mounts the pod's shared directory.
const ShareMountPoint = "/run/kata/shared"

// MemoryMountPoint is the guest's directory of the tmpfs file systems that
// containers of the pod share.
const MemoryMountPoint = "/run/kata/memory"

// MemoryDirectoryMountPoint is the guest's directory of what single containers
// have of those: a directory or a file in one.
const MemoryDirectoryMountPoint = "/run/kata/memory-directories"

// RootMountPoint is the guest's directory of what containers' root file systems
// are made of, where that is not in the share.
const RootMountPoint = "/run/kata/roots"
