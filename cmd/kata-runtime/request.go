package main

import (
	"os"

	"kata-runtime/virtcontainers/bundle"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/share"
	"kata-runtime/virtcontainers/standin"
	"kata-runtime/virtcontainers/supervisor/api"
)

// loadBundle reads a bundle and prepares it for the pod that its annotations
// name, which is looked for below root; nil: it starts one. allowHostNetwork tells
// that it may share the host's network.
func loadBundle(dir, id, root string, allowHostNetwork bool) (*bundle.Bundle, *pod, error) {
	b, err := bundle.Read(dir)
	if err != nil {
		return nil, nil, err
	}
	membership, err := oci.PodOf(b.Spec.Annotations, id)
	if err != nil {
		return nil, nil, err
	}
	options := bundle.Options{ID: id, Sandbox: membership.Declared, HostNetwork: allowHostNetwork}
	var joined *pod
	if membership.Sandbox != "" { // first of all: its namespaces' paths may be those of a pod that is gone
		if joined, err = findPod(root, membership); err != nil {
			return nil, nil, err
		}
		options.Pod = joined
	}
	err = b.Prepare(options)
	return b, joined, err
}

// describeMounts describes the trees of the share to the supervisor, and returns
// them in the same order.
func describeMounts(mounts []share.Mount) (described []*api.Mount, trees []*os.File) {
	for _, m := range mounts {
		described = append(described, &api.Mount{
			Name: m.Name, Temporary: m.Temporary,
			ReadOnly: m.Attributes.ReadOnly, RecursiveReadOnly: m.Attributes.RecursiveReadOnly, Follow: m.Attributes.Follow,
		})
		trees = append(trees, m.Tree)
	}
	return described, trees
}

// standInMounts are the mounts that a stand-in enters.
func standInMounts(mounts []bundle.Mount) []standin.Mount {
	converted := make([]standin.Mount, len(mounts))
	for i, m := range mounts {
		converted[i] = standin.Mount(m)
	}
	return converted
}

// memoryVolumes describes the guest's file systems that the pod shares.
func memoryVolumes(guest *oci.GuestSpec) []*api.MemoryVolume {
	var volumes []*api.MemoryVolume
	for _, volume := range guest.Memory {
		volumes = append(volumes, &api.MemoryVolume{
			MountPoint: volume.MountPoint, Options: volume.Options, Keep: volume.Keep, CopyFrom: volume.GuestSource,
		})
	}
	return volumes
}

// memoryDirectories describes what the container has of memory volumes.
func memoryDirectories(guest *oci.GuestSpec) []*api.MemoryDirectory {
	var directories []*api.MemoryDirectory
	for _, d := range guest.MemoryDirectories {
		directories = append(directories, &api.MemoryDirectory{MountPoint: d.MountPoint, Volume: d.Volume, Path: d.Path})
	}
	return directories
}

// blockDevices describes the container's block devices to the supervisor.
func blockDevices(guest *oci.GuestSpec) []*api.BlockDevice {
	devices := make([]*api.BlockDevice, len(guest.BlockDevices))
	for i, d := range guest.BlockDevices {
		devices[i] = &api.BlockDevice{Major: d.Major, Minor: d.Minor, ReadOnly: d.ReadOnly}
	}
	return devices
}
