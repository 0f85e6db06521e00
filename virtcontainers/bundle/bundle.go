package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/share"
)

// Bundle is an OCI bundle with the guest's view of it.
type Bundle struct {
	// Dir and Rootfs are the host's absolute paths.
	Dir, Rootfs string
	// Spec is the caller's, without the namespaces that are the host's.
	Spec *specs.Spec

	// What follows is Prepare's.

	// Hostname is the pod's, if the container starts one.
	Hostname string
	// ShareName is the container's directory in the share.
	ShareName string
	// GuestRoot is the guest's path of a root file system that it mounts itself;
	// empty: that is Rootfs, in the share.
	GuestRoot string
	// Interfaces is how many its network namespace has already, if it starts a
	// pod. HostNetwork: it has none of its own, but the host's.
	Interfaces  int
	HostNetwork bool
	Guest       *oci.GuestSpec
	// Architecture is the one of architecture.All whose machines run the container's
	// program, and ArchitectureBy what says so, for messages; empty: nobody knows.
	Architecture, ArchitectureBy string

	declared bool // Options.Sandbox
	// netns is the network namespace at the path that the specification names, which
	// is looked up once; joined is the same, of a container that starts a pod. nil:
	// there is no path, or it leads to the host's.
	netns  *os.File
	joined *network.Namespace
}

// Pod is the pod that a container joins.
type Pod interface {
	// ID is that of its sandbox.
	ID() string
	// Owner finds a container by its namespace, as oci.GuestOptions.Owner says.
	Owner(joined specs.LinuxNamespace) (container string, err error)
	// OnHostNetwork tells whether it shares the host's network.
	OnHostNetwork() (bool, error)
}

// Options say what Prepare cannot see in the bundle.
type Options struct {
	// ID was checked by oci.ValidateID.
	ID string
	// Pod is what the container joins; nil: it starts one.
	Pod Pod
	// Sandbox: the caller declares the container to be a pod's first.
	Sandbox bool
	// HostNetwork: it may share the host's.
	HostNetwork bool
	// GuestRoot tells where the guest mounts the root file system, for a container
	// of a directory in the share; nil: it is in the share.
	GuestRoot func(shareName string) string
	// Rlimits are the caller's, for a specification without any; nil: those with
	// which this process was started.
	Rlimits []specs.POSIXRlimit
}

// Read loads and validates the specification of the bundle at dir.
func Read(dir string) (*Bundle, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the bundle: %w", err)
	}
	spec, err := oci.LoadSpec(dir)
	if err != nil {
		return nil, err
	}
	return &Bundle{Dir: dir, Rootfs: oci.RootfsPath(dir, spec), Spec: spec}, nil
}

// Prepare refuses what a container in a VM cannot have, and translates the rest
// for the guest. Errors name the field of the specification. Close must follow.
func (b *Bundle) Prepare(options Options) error {
	notes, err := oci.LeaveOutHost(b.Spec, b.isHost)
	if err != nil {
		return err
	}
	if err := b.findNetwork(options); err != nil {
		return inHostNotes(err, notes)
	}
	callers, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find the caller's host name: %w", err)
	}
	rlimits := options.Rlimits
	if rlimits == nil {
		if rlimits, err = limits.OfCaller(limits.System); err != nil {
			return err
		}
	}
	b.declared = options.Sandbox
	b.ShareName = share.NewName(options.ID)
	if options.GuestRoot != nil {
		b.GuestRoot = options.GuestRoot(b.ShareName)
	}
	guest := oci.GuestOptions{
		ContainerID: options.ID, SharePath: filepath.Join(protocol.ShareMountPoint, b.ShareName), RootPath: b.GuestRoot, BundleDir: b.Dir,
		Sandbox: options.Sandbox, Hostname: callers, Rlimits: rlimits,
	}
	if options.Pod != nil {
		guest.Owner = options.Pod.Owner
	}
	if b.Guest, err = oci.Transform(b.Spec, guest); err != nil {
		return inHostNotes(err, notes)
	}
	b.Guest.Notes = append(b.Guest.Notes, notes...)
	if options.Pod == nil {
		if b.Hostname, err = podHostname(b.Spec, callers); err != nil {
			return err
		}
	}
	b.Architecture, b.ArchitectureBy, err = b.findArchitecture(options.Pod != nil)
	return err
}

// inHostNotes adds to an error about a namespace that is not there what the
// specification has in its place.
func inHostNotes(err error, notes []string) error {
	if len(notes) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(notes, "; "))
}

// Encode returns the JSON of the guest's specification, and of the caller's. The
// terminal's size, Spec.Process.ConsoleSize, may be set until then.
func (b *Bundle) Encode() (guest, config []byte, err error) {
	b.Guest.Spec.Process.ConsoleSize = b.Spec.Process.ConsoleSize
	if guest, err = json.Marshal(b.Guest.Spec); err != nil {
		return nil, nil, fmt.Errorf("encode the guest's spec: %w", err)
	}
	if config, err = json.Marshal(b.Spec); err != nil {
		return nil, nil, fmt.Errorf("encode the spec: %w", err)
	}
	return guest, config, nil
}

// ResolvConf names the mount of the share that is at /etc/resolv.conf, "" for
// none.
func (b *Bundle) ResolvConf() string {
	name := ""
	for i, bind := range b.Guest.Binds {
		if filepath.Clean(bind.Destination) == "/etc/resolv.conf" {
			name = share.Bind(i)
		}
	}
	return name
}
