package virtcontainers

import (
	"context"
	"slices"
	"time"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/device"
)

// unplugTimeout bounds how long a container's deletion waits for the guest to
// let go of its disks. A guest that keeps them hurts nobody but itself.
const unplugTimeout = 10 * time.Second

// Root is a container's root file system that the guest mounts from disks, in the
// place of one in the share.
type Root struct {
	// Images are the disks, which the sandbox takes over.
	Images []device.Image
	// Storages are what the guest mounts, in order, when the disks have these serials.
	Storages func(serials []string) []*protocol.Storage
}

// Close lets go of images that were not taken over. It may be called on nil.
func (r *Root) Close() {
	if r != nil {
		device.CloseImages(r.Images)
	}
}

// plugIn gives the machine what devices a container needs, and its root's disks.
// storages are the root's.
func (s *Sandbox) plugIn(ctx context.Context, container string, blocks []device.Block, root *Root) (
	devices []*protocol.BlockDevice, storages []*protocol.Storage, err error,
) {
	var images []device.Image
	if root != nil {
		images = root.Images
	}
	s.devices.Reserve(container, blocks, images...)
	disks, err := s.devices.MapToGuest(ctx, container)
	if err != nil {
		return nil, nil, err
	}
	serials := make(map[device.Block]string, len(disks))
	for _, d := range disks {
		serials[d.Block] = d.Serial
	}
	for _, d := range disks {
		if slices.Contains(blocks, d.Block) {
			devices = append(devices, &protocol.BlockDevice{Serial: d.Serial, HostMajor: int64(d.Major), HostMinor: int64(d.Minor)})
		}
	}
	if root == nil {
		return devices, nil, nil
	}
	own := make([]string, len(images))
	for i, image := range images {
		own[i] = serials[image.Block]
	}
	return devices, root.Storages(own), nil
}

// unplug takes back what no other container needs. What the guest keeps goes
// with the machine, or with a later container.
func (s *Sandbox) unplug(ctx context.Context, container string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unplugTimeout)
	defer cancel()
	if err := s.devices.UnmapFromGuest(ctx, container); err != nil && s.life.Err() == nil {
		s.log.Warn("a block device stays in the machine for now", "container", container, "error", err)
	}
}
