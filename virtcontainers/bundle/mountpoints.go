package bundle

import (
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/mountpoint"
)

// makeMountPoints makes on the host what the container library in the guest
// would make in the root file system, if it could write there.
func (b *Bundle) makeMountPoints() error {
	spec := b.Guest.Spec
	options := mountpoint.Options{
		Rootfs: b.Rootfs, Directories: []string{spec.Process.Cwd},
		UID: rootID(spec.Linux.UIDMappings), GID: rootID(spec.Linux.GIDMappings),
	}
	binds := b.Guest.Binds
	for _, m := range spec.Mounts {
		mount := mountpoint.Mount{Destination: m.Destination}
		switch {
		case len(binds) > 0 && m.Source == binds[0].GuestSource:
			if binds[0].Overlay == nil { // of which the guest makes directories as in its memory
				mount.Source, mount.Recursive, mount.Attributes = binds[0].Source, binds[0].Recursive, attributes(binds[0])
			}
			binds = binds[1:]
		case m.Type == "bind":
			// The guest's own: what the kernel has at a path is the same kind of
			// file here. What is not here is in the guest's memory.
			info, err := os.Stat(m.Source)
			mount.File = err == nil && !info.IsDir()
		}
		options.Mounts = append(options.Mounts, mount)
	}
	hasUsers := len(spec.Linux.UIDMappings) > 0
	for _, device := range spec.Linux.Devices {
		options.Nodes = append(options.Nodes, deviceNode(device, hasUsers, options.UID, options.GID))
	}
	if spec.Process.Terminal {
		options.Nodes = append(options.Nodes, mountpoint.Node{Path: "/dev/console", Mode: unix.S_IFREG | 0o666})
	}
	return mountpoint.Make(options)
}

// deviceNode is what the container has at a device's path: the device, or a file
// on which the guest mounts it. A block device has another number in the guest,
// and a container with users of its own cannot make any.
func deviceNode(device specs.LinuxDevice, mounted bool, uid, gid int) mountpoint.Node {
	node := mountpoint.Node{Path: device.Path, Mode: unix.S_IFREG | 0o666, UID: uid, GID: gid}
	if device.Type == "b" || mounted {
		return node
	}
	mode := uint32(0o666) // as the container library's default
	if device.FileMode != nil {
		mode = uint32(device.FileMode.Perm())
	}
	node.Mode = unix.S_IFCHR | mode
	if device.Type == "p" {
		node.Mode = unix.S_IFIFO | mode
	}
	node.Device = unix.Mkdev(uint32(device.Major), uint32(device.Minor))
	if device.UID != nil {
		node.UID = int(*device.UID)
	}
	if device.GID != nil {
		node.GID = int(*device.GID)
	}
	return node
}

// rootID is what the container's root is outside of its user namespace.
func rootID(mappings []specs.LinuxIDMapping) int {
	for _, m := range mappings {
		if m.ContainerID == 0 && m.Size > 0 {
			return int(m.HostID)
		}
	}
	return 0
}
