package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/hotplug"
	"kata-runtime/guest/protocol"
)

// diskNumbers are the guest's numbers of the host's block devices.
type diskNumbers map[hotplug.Number]hotplug.Number

// nodesDir holds the nodes of devices that are mounted into containers. It is in
// the guest's /dev, because other file systems may not have device nodes.
const nodesDir = "/dev/kata"

// awaitDisks waits until the guest has a container's disks.
func awaitDisks(ctx context.Context, disks []*protocol.BlockDevice) (diskNumbers, error) {
	serials := make([]string, len(disks))
	for i, disk := range disks {
		serials[i] = disk.GetSerial()
	}
	found, err := hotplug.AwaitDisks(ctx, serials)
	if err != nil {
		return nil, err
	}
	numbers := make(diskNumbers, len(disks))
	for _, disk := range disks {
		numbers[hotplug.Number{Major: disk.GetHostMajor(), Minor: disk.GetHostMinor()}] = found[disk.GetSerial()].Number
	}
	return numbers, nil
}

// loopMajor is the number of loop devices' driver: one that is not plugged in is the
// guest's own.
const loopMajor = 7

// mountedDevice is a device whose node has to be mounted into its container.
type mountedDevice struct {
	specs.LinuxDevice        // with the guest's numbers
	source            string // where the node must be made
}

// translateDevices replaces the host's numbers of block devices by the guest's.
// It returns the devices for which a node must be made, to be mounted:
//   - block devices outside of /dev: a node in the root file system would be one
//     with that number on the host, where it is another device's;
//   - those of a container in a user namespace, which cannot make nodes. Instead
//     libcontainer mounts nodes of the guest, which are of root and where it has
//     them. That is right for the standard ones alone.
func translateDevices(spec *specs.Spec, disks diskNumbers, dir string) ([]mountedDevice, error) {
	var kept []specs.LinuxDevice
	var mounted []mountedDevice
	inUserNamespace := hasNamespace(spec.Linux, specs.UserNamespace)
	for i, device := range spec.Linux.Devices {
		own := inUserNamespace && !isStandard(device)
		if device.Type == "b" {
			number, ok := disks[hotplug.Number{Major: device.Major, Minor: device.Minor}]
			if !ok && device.Major == loopMajor {
				number, ok = hotplug.Number{Major: device.Major, Minor: device.Minor}, true
			}
			if !ok {
				return nil, fmt.Errorf("%w: linux.devices[%d]: block device %d:%d is not plugged in", ErrInvalid, i, device.Major, device.Minor)
			}
			device.Major, device.Minor = number.Major, number.Minor
			device.Path = filepath.Join("/", device.Path)
			own = own || !strings.HasPrefix(device.Path, "/dev/")
		}
		if !own {
			kept = append(kept, device)
			continue
		}
		device.Path = filepath.Join("/", device.Path)
		m := mountedDevice{LinuxDevice: device, source: filepath.Join(dir, strconv.Itoa(len(mounted)))}
		mounted = append(mounted, m)
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Type: "bind", Source: m.source, Destination: device.Path, Options: []string{"bind", "nosuid", "noexec"},
		})
	}
	spec.Linux.Devices = kept
	if resources := spec.Linux.Resources; resources != nil {
		resources.Devices = translateRules(resources.Devices, disks)
		return mounted, translateBlockIO(resources.BlockIO, disks)
	}
	return mounted, nil
}

// isStandard tells whether a device is one that libcontainer gives to every
// container, or the terminal multiplexer, which it has its own way to make.
func isStandard(device specs.LinuxDevice) bool {
	path := filepath.Join("/", device.Path)
	return path == "/dev/ptmx" || slices.ContainsFunc(specconv.AllowedDevices, func(standard *devices.Device) bool {
		return standard.Path == path && string(standard.Type) == device.Type &&
			standard.Major == device.Major && standard.Minor == device.Minor
	})
}

// makeNodes makes the nodes that are to be mounted.
func makeNodes(linux *specs.Linux, mounted []mountedDevice) error {
	for _, device := range mounted {
		mode := os.FileMode(0o666)
		if device.FileMode != nil {
			mode = device.FileMode.Perm()
		}
		if err := os.MkdirAll(filepath.Dir(device.source), 0o755); err != nil {
			return fmt.Errorf("device %s: %w", device.Path, err)
		}
		number := unix.Mkdev(uint32(device.Major), uint32(device.Minor))
		kind := map[string]uint32{"b": unix.S_IFBLK, "p": unix.S_IFIFO}[device.Type]
		if kind == 0 {
			kind = unix.S_IFCHR // c and u
		}
		if err := unix.Mknod(device.source, kind|uint32(mode), int(number)); err != nil {
			return fmt.Errorf("device %s: make a node: %w", device.Path, err)
		}
		if err := os.Chmod(device.source, mode); err != nil { // whatever the umask
			return fmt.Errorf("device %s: %w", device.Path, err)
		}
		uid, gid := mapID(linux.UIDMappings, device.UID), mapID(linux.GIDMappings, device.GID)
		if err := os.Lchown(device.source, uid, gid); err != nil {
			return fmt.Errorf("device %s: %w", device.Path, err)
		}
	}
	return nil
}

// mapID returns what an id in the container is outside of it.
func mapID(mappings []specs.LinuxIDMapping, id *uint32) int {
	var inside uint32
	if id != nil {
		inside = *id
	}
	for _, m := range mappings {
		if inside >= m.ContainerID && inside-m.ContainerID < m.Size {
			return int(m.HostID + inside - m.ContainerID)
		}
	}
	return int(inside)
}

// translateRules does the same with device rules. A rule for a block device that
// the container does not have goes: its number may be another one's here.
func translateRules(rules []specs.LinuxDeviceCgroup, disks diskNumbers) []specs.LinuxDeviceCgroup {
	var result []specs.LinuxDeviceCgroup
	for _, rule := range rules {
		if rule.Type != "b" || rule.Major == nil || *rule.Major < 0 {
			result = append(result, rule)
			continue
		}
		for host, guest := range disks {
			if host.Major != *rule.Major || (rule.Minor != nil && *rule.Minor >= 0 && *rule.Minor != host.Minor) {
				continue
			}
			own := rule
			own.Major, own.Minor = &guest.Major, &guest.Minor
			result = append(result, own)
		}
	}
	return result
}

// translateBlockIO does the same with limits on block devices.
func translateBlockIO(b *specs.LinuxBlockIO, disks diskNumbers) error {
	if b == nil {
		return nil
	}
	translate := func(name string, major, minor *int64) error {
		guest, ok := disks[hotplug.Number{Major: *major, Minor: *minor}]
		if !ok {
			return fmt.Errorf("%w: linux.resources.blockIO.%s: the container does not have the block device %d:%d",
				ErrInvalid, name, *major, *minor)
		}
		*major, *minor = guest.Major, guest.Minor
		return nil
	}
	var errs []error
	for i := range b.WeightDevice {
		errs = append(errs, translate("weightDevice", &b.WeightDevice[i].Major, &b.WeightDevice[i].Minor))
	}
	for name, limits := range map[string][]specs.LinuxThrottleDevice{
		"throttleReadBpsDevice":   b.ThrottleReadBpsDevice,
		"throttleWriteBpsDevice":  b.ThrottleWriteBpsDevice,
		"throttleReadIOPSDevice":  b.ThrottleReadIOPSDevice,
		"throttleWriteIOPSDevice": b.ThrottleWriteIOPSDevice,
	} {
		for i := range limits {
			errs = append(errs, translate(name, &limits[i].Major, &limits[i].Minor))
		}
	}
	return errors.Join(errs...)
}

// translateUpdate does the same with a JSON document of resources.
func translateUpdate(document []byte, disks diskNumbers) ([]byte, error) {
	resources := &specs.LinuxResources{}
	if err := json.Unmarshal(document, resources); err != nil {
		return nil, err
	}
	if err := translateBlockIO(resources.BlockIO, disks); err != nil {
		return nil, err
	}
	return json.Marshal(resources)
}

// setDiskWeights sets what libcontainer leaves out where disks have no BFQ
// scheduler: weights of single disks.
func (c *container) setDiskWeights(resources *specs.LinuxResources) error {
	dir := c.cgroupDir()
	if dir == "" || resources == nil || resources.BlockIO == nil {
		return nil
	}
	for _, device := range resources.BlockIO.WeightDevice {
		if device.Weight == nil {
			continue
		}
		weight := cgroups.ConvertBlkIOToIOWeightValue(*device.Weight)
		line := fmt.Sprintf("%d:%d %d", device.Major, device.Minor, weight)
		if err := cgroups.WriteFile(dir, "io.weight", line); err != nil {
			return fmt.Errorf("linux.resources.blockIO.weightDevice: %w", err)
		}
	}
	return nil
}
