package virtcontainers

import (
	"context"
	"time"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/device"
)

// unplugTimeout bounds how long a container's deletion waits for the guest to
// let go of its disks. A guest that keeps them hurts nobody but itself.
const unplugTimeout = 10 * time.Second

// plugIn gives the machine what devices a container needs.
func (s *Sandbox) plugIn(ctx context.Context, container string, blocks []device.Block) ([]*protocol.BlockDevice, error) {
	s.devices.Reserve(container, blocks)
	disks, err := s.devices.MapToGuest(ctx, container)
	if err != nil {
		return nil, err
	}
	result := make([]*protocol.BlockDevice, len(disks))
	for i, d := range disks {
		result[i] = &protocol.BlockDevice{Serial: d.Serial, HostMajor: int64(d.Major), HostMinor: int64(d.Minor)}
	}
	return result, nil
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
