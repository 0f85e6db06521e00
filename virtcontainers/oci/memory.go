package oci

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
)

// MemoryVolume is a tmpfs in the guest that the containers of the pod share
// which have the same tmpfs of the host.
type MemoryVolume struct {
	// MountPoint is the guest's absolute path, the same for all of them.
	MountPoint string
	// Options are those of mount(8).
	Options []string
	// Keep: it outlives the container, as a volume of the pod does.
	Keep bool
}

// emptyDirs is the directory of a pod that holds Kubernetes's emptyDir volumes.
const emptyDirs = "kubernetes.io~empty-dir"

// memoryVolume replaces a bind of a tmpfs of the host by a tmpfs of that size
// in the guest, for what is meant to be memory that the pod's processes share:
// /dev/shm, as container managers make it, and Kubernetes's emptyDir of medium
// Memory. Over the share neither would be memory, nor could it be mapped.
func (t *translation) memoryVolume(m *specs.Mount, source string, mapping *IDMapping) (bool, error) {
	shm := m.Destination == "/dev/shm"
	// An emptyDir on disk may lie on a tmpfs too, but is not one.
	emptyDir := path.Base(path.Dir(path.Clean(source))) == emptyDirs
	if !shm && !emptyDir {
		return false, nil
	}
	host, err := t.host.Tmpfs(source)
	if err != nil {
		return false, fmt.Errorf("source: %w", err)
	}
	if host == nil || !shm && !host.root {
		return false, nil
	}
	if mapping != nil { // as the mount would show them
		host.uid, host.gid = mapID(mapping.UIDs, host.uid), mapID(mapping.GIDs, host.gid)
	}
	volume := MemoryVolume{
		MountPoint: filepath.Join(protocol.MemoryMountPoint, host.identity),
		Options: []string{
			"nosuid", "nodev", fmt.Sprintf("mode=%04o", host.mode), fmt.Sprintf("uid=%d", host.uid),
			fmt.Sprintf("gid=%d", host.gid), fmt.Sprintf("size=%d", host.size),
		},
		Keep: emptyDir,
	}
	m.Type, m.Source = "bind", volume.MountPoint
	m.Options = append(flagOptions(m.Options), "bind")
	same := func(other MemoryVolume) bool { return other.MountPoint == volume.MountPoint }
	if !slices.ContainsFunc(t.guest.Memory, same) {
		t.guest.Memory = append(t.guest.Memory, volume)
	}
	return true, nil
}
