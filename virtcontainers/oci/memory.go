package oci

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"

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
	// Source is the host's absolute path of what the tmpfs begins as a copy of,
	// and GuestSource where that is to appear in the guest meanwhile. Both are
	// empty where there is nothing to copy.
	Source, GuestSource string
}

// emptyDirs is the directory of a pod that holds Kubernetes's emptyDir volumes.
const emptyDirs = "kubernetes.io~empty-dir"

// memoryVolume replaces a bind of a tmpfs of the host by a tmpfs of that size
// in the guest, for what is meant to be memory that the pod's processes share:
// the pod's /dev/shm, as container managers make it, and Kubernetes's emptyDir
// of medium Memory. Over the share neither would be memory. What the host has
// there already is copied; what either side writes later the other does not see.
func (t *translation) memoryVolume(m *specs.Mount, source string) (bool, error) {
	// Others, such as what a user mounts at /dev/shm, are files of the host.
	mayBe := m.Destination == "/dev/shm" && path.Base(path.Clean(source)) == "shm" || isEmptyDir(source)
	if !mayBe {
		return false, nil
	}
	host, err := t.host.Tmpfs(source)
	if err != nil {
		return false, fmt.Errorf("source: %w", err)
	}
	// An emptyDir on disk may lie on a tmpfs too, but is not one.
	if host == nil || !host.root {
		return false, nil
	}
	resolved, err := t.host.Resolve(source)
	if err != nil {
		return false, fmt.Errorf("source: %w", err)
	}
	if below("/dev", resolved) { // the host's own shared memory: --ipc=host
		return false, nil
	}
	volume := MemoryVolume{
		MountPoint: filepath.Join(protocol.MemoryMountPoint, host.identity),
		Options: []string{
			"nosuid", "nodev", fmt.Sprintf("mode=%04o", host.mode), fmt.Sprintf("uid=%d", host.uid),
			fmt.Sprintf("gid=%d", host.gid), fmt.Sprintf("size=%d", host.size),
		},
		Keep: isEmptyDir(source),
	}
	m.Type, m.Source = "bind", volume.MountPoint
	m.Options = append(flagOptions(m.Options), "bind")
	same := func(other MemoryVolume) bool { return other.MountPoint == volume.MountPoint }
	if slices.ContainsFunc(t.guest.Memory, same) {
		return true, nil
	}
	if !host.empty {
		volume.Source = source
		volume.GuestSource = path.Join(t.options.SharePath, "memory", strconv.Itoa(len(t.guest.Memory)))
	}
	t.guest.Memory = append(t.guest.Memory, volume)
	return true, nil
}

// isEmptyDir tells whether kubelet has made a directory for an emptyDir volume.
func isEmptyDir(source string) bool {
	return path.Base(path.Dir(path.Clean(source))) == emptyDirs
}
