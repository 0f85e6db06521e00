package oci

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

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
	// IDMapping maps the owners of what is copied; nil: they stay.
	IDMapping *IDMapping
}

// MemoryDirectory is a directory in a memory volume that a container has in the
// place of the whole.
type MemoryDirectory struct {
	// MountPoint is the guest's absolute path.
	MountPoint string
	// Volume is the mount point of a MemoryVolume, Path the path below it.
	Volume, Path string
}

// subPaths is the directory of a pod in which kubelet bind-mounts single
// directories of volumes (subPath) for containers.
const subPaths = "volume-subpaths"

// emptyDirs is the directory of a pod that holds Kubernetes's emptyDir volumes.
const emptyDirs = "kubernetes.io~empty-dir"

// memoryVolume replaces a bind of a tmpfs of the host by a tmpfs of that size
// in the guest, for what is meant to be memory that the pod's processes share:
// the pod's /dev/shm, as container managers make it, and Kubernetes's emptyDir
// of medium Memory. Over the share neither would be memory. What the host has
// there already is copied; what either side writes later the other does not see.
func (t *translation) memoryVolume(m *specs.Mount, source string, mapping *IDMapping) (bool, error) {
	// Others, such as what a user mounts at /dev/shm, are files of the host.
	below, err := t.subPath(source)
	if err != nil {
		return false, fmt.Errorf("source: %w", err)
	}
	if below.volume != "" {
		source = below.volume
	}
	emptyDir := isEmptyDir(source)
	if !emptyDir && (m.Destination != "/dev/shm" || path.Base(path.Clean(source)) != "shm") {
		return false, nil
	}
	host, err := t.memoryTmpfs(source)
	if host == nil || err != nil {
		return false, err
	}
	if mapping != nil { // as the mount would show them
		host.uid, host.gid = mapID(mapping.UIDs, host.uid), mapID(mapping.GIDs, host.gid)
	}
	m.Type, m.Source = "bind", t.addMemory(host, source, mapping, emptyDir)
	m.Options = append(flagOptions(m.Options), "bind")
	if below.path != "" && below.path != "/" {
		directory := MemoryDirectory{
			MountPoint: path.Join(protocol.MemoryDirectoryMountPoint, fmt.Sprintf("%s.%d", t.options.ContainerID, len(t.guest.MemoryDirectories))),
			Volume:     m.Source, Path: below.path,
		}
		m.Source = directory.MountPoint
		t.guest.MemoryDirectories = append(t.guest.MemoryDirectories, directory)
	}
	return true, nil
}

// subPath finds the emptyDir volume that a directory of kubelet's is a part of.
// Without one there is nothing wrong: other volumes have such directories, too.
func (t *translation) subPath(source string) (part volumePart, err error) {
	if !strings.Contains(path.Clean(source), "/"+subPaths+"/") {
		return volumePart{}, nil
	}
	resolved, err := t.host.Resolve(source)
	if err != nil {
		return volumePart{}, err
	}
	return t.host.VolumePart(resolved)
}

// memoryTmpfs describes the tmpfs of which source is the whole, nil for anything
// else.
func (t *translation) memoryTmpfs(source string) (*tmpfs, error) {
	host, err := t.host.Tmpfs(source)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	// An emptyDir on disk may lie on a tmpfs too, but is not one.
	if host == nil || !host.root {
		return nil, nil
	}
	resolved, err := t.host.Resolve(source)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if below("/dev", resolved) { // the host's own shared memory: --ipc=host
		return nil, nil
	}
	return host, nil
}

// addMemory adds a memory volume, unless the container has it already, and
// returns its mount point.
func (t *translation) addMemory(host *tmpfs, source string, mapping *IDMapping, keep bool) string {
	volume := MemoryVolume{
		MountPoint: filepath.Join(protocol.MemoryMountPoint, host.identity),
		Options: []string{
			"nosuid", "nodev", fmt.Sprintf("mode=%04o", host.mode), fmt.Sprintf("uid=%d", host.uid),
			fmt.Sprintf("gid=%d", host.gid), fmt.Sprintf("size=%d", host.size),
		},
		Keep: keep,
	}
	same := func(other MemoryVolume) bool { return other.MountPoint == volume.MountPoint }
	if slices.ContainsFunc(t.guest.Memory, same) {
		return volume.MountPoint
	}
	if !host.empty {
		volume.Source, volume.IDMapping = source, mapping
		volume.GuestSource = path.Join(t.options.SharePath, "mounts", "memory-"+strconv.Itoa(len(t.guest.Memory)))
	}
	t.guest.Memory = append(t.guest.Memory, volume)
	return volume.MountPoint
}

// isEmptyDir tells whether kubelet has made a directory for an emptyDir volume.
func isEmptyDir(source string) bool {
	return path.Base(path.Dir(path.Clean(source))) == emptyDirs
}
