package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrUnsupported is wrapped by Transform's errors about a field that asks for
// something that a container in a VM cannot have.
var ErrUnsupported = errors.New("not supported for a container in a virtual machine")

// GuestOptions says where the container is, on both sides.
type GuestOptions struct {
	// ContainerID was checked by ValidateID.
	ContainerID string
	// SharePath is the guest's absolute path of the container's directory in
	// the share: rootfs and mounts/N are below it.
	SharePath string
	// RootPath is the guest's absolute path of a root file system that is not in
	// the share, but the guest's to mount; empty: it is in the share.
	RootPath string
	// BundleDir is the host's absolute path of the bundle.
	BundleDir string
	// Owner is set for a container that joins a pod whose VM runs: it finds the
	// container of the pod that is in a namespace of the host, by the
	// namespace's path, and returns "" for none. Without it a path, except
	// the network's, is an error: nothing in a new VM is there to join.
	Owner func(specs.LinuxNamespace) (container string, err error)
	// Hostname is the caller's own, which a new UTS namespace begins with.
	Hostname string
	// Rlimits are the caller's resource limits, of which the process has those
	// that the specification does not list.
	Rlimits []specs.POSIXRlimit
	// Sandbox says that the caller makes a pod's first container: also ipc and
	// uts namespaces with a path are the pod's, since some callers make them
	// before it.
	Sandbox bool
}

// GuestSpec is a specification as the guest gets it, and what stays behind.
type GuestSpec struct {
	// Spec is the guest's, a deep copy.
	Spec *specs.Spec
	// Binds are the host's files and directories that the guest's mounts name.
	Binds []Bind
	// BlockDevices are the host's block devices that the container has.
	BlockDevices []BlockDevice
	// Memory are file systems in the guest's memory that the guest's mounts name.
	Memory []MemoryVolume
	// MemoryDirectories are parts of Memory that the guest's mounts name.
	MemoryDirectories []MemoryDirectory
	// Dropped lists, for a debug log, each field whose value stays on the host:
	// "process.user.username: ContainerUser".
	Dropped []string
	// Notes are for a debug log too: what the container has is not what its
	// specification means on one kernel.
	Notes []string
	// Warnings are for the caller to see: what is in the specification and has no
	// effect anywhere.
	Warnings []string
}

// Bind is a file or directory of the host that a mount of the guest's names.
type Bind struct {
	// Index counts the binds from 0.
	Index int
	// Source is the host's absolute path, not resolved.
	Source string
	// Overlay is not nil for an overlay that the host is to mount instead: its
	// options of mount(8), with its layers. Source is no path then.
	Overlay []string
	// GuestSource is SharePath/mounts/Index.
	GuestSource string
	// Destination is the absolute path in the container.
	Destination string
	// Recursive: the mounts below Source come along.
	Recursive bool
	// ReadOnly: the mount itself must not be writable; RecursiveReadOnly: nor
	// may those below it.
	ReadOnly          bool
	RecursiveReadOnly bool
	// Follow: mounts that the host makes below Source later are to appear
	// (propagation slave, rslave, shared, rshared).
	Follow bool
	// IDMapping is nil for a mount that shows the owners of its source.
	IDMapping *IDMapping
}

// translation is what the transformers work on.
type translation struct {
	options GuestOptions
	host    host
	guest   *GuestSpec
	// deviceMounts are devices that a bind mount names.
	deviceMounts []specs.LinuxDevice
}

func (t *translation) spec() *specs.Spec { return t.guest.Spec }

// drop notes a field that stays on the host.
func (t *translation) drop(field string, value any) {
	t.guest.Dropped = append(t.guest.Dropped, fmt.Sprintf("%s: %v", field, value))
}

// transformers lists the steps. Each owns the fields that its file names. None
// depends on another, but that limits on block devices are for devices that the
// container has.
func transformers() []func(*translation) error {
	return []func(*translation) error{
		transformRoot,
		transformMounts,
		transformHooks,
		transformProcess,
		noteIPC,
		transformRlimits,
		warnOfCapabilities,
		transformNamespaces,
		transformDevices,
		transformCgroup,
		transformHostOnly,
	}
}

// Transform translates a validated specification for the guest. The original
// stays as it is. Of the host, it looks at the sources of bind mounts and at the
// device nodes of a privileged container's list, and at nothing else. Errors name the field; those about what a VM cannot give wrap
// ErrUnsupported.
func Transform(spec *specs.Spec, options GuestOptions) (*GuestSpec, error) {
	return transform(spec, options, realHost{})
}

func transform(spec *specs.Spec, options GuestOptions, host host) (*GuestSpec, error) {
	if spec.Root == nil {
		return nil, errors.New("translate the specification: root must be specified")
	}
	clone, err := deepCopy(spec)
	if err != nil {
		return nil, fmt.Errorf("translate the specification: %w", err)
	}
	if !filepath.IsAbs(options.BundleDir) || !path.IsAbs(options.SharePath) {
		return nil, fmt.Errorf("translate the specification: bundle %q and share %q must be absolute paths",
			options.BundleDir, options.SharePath)
	}
	if clone.Linux == nil {
		clone.Linux = &specs.Linux{}
	}
	t := &translation{
		options: options, host: host,
		guest: &GuestSpec{Spec: clone},
	}
	for _, transformer := range transformers() {
		if err := transformer(t); err != nil {
			return nil, fmt.Errorf("translate the specification: %w", err)
		}
	}
	return t.guest, nil
}

func deepCopy[T any](value *T) (*T, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	clone := new(T)
	if err := json.Unmarshal(data, clone); err != nil {
		return nil, err
	}
	return clone, nil
}
