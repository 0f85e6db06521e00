package oci

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// guestDevice returns the path in the guest of a character device that means
// the same in the guest's kernel as in the host's, and "" for any other. The
// numbers are the kernel's (Documentation/admin-guide/devices.txt).
func guestDevice(major, minor int64) string {
	switch [2]int64{major, minor} {
	case [2]int64{1, 3}:
		return "/dev/null"
	case [2]int64{1, 5}:
		return "/dev/zero"
	case [2]int64{1, 7}:
		return "/dev/full"
	case [2]int64{1, 8}:
		return "/dev/random"
	case [2]int64{1, 9}:
		return "/dev/urandom"
	case [2]int64{5, 0}:
		return "/dev/tty"
	case [2]int64{5, 1}:
		return "/dev/console"
	case [2]int64{5, 2}:
		return "/dev/ptmx"
	case [2]int64{10, 200}:
		return "/dev/net/tun"
	case [2]int64{10, 229}:
		return "/dev/fuse"
	default:
		return ""
	}
}

// BlockDevice is a block device of the host that the container has. The guest's
// specification names it by the host's numbers, for the guest to translate.
type BlockDevice struct {
	Major, Minor uint32
	// ReadOnly: the container's device rules do not let it write.
	ReadOnly bool
}

// transformDevices owns linux.devices. Block devices are plugged into the
// machine. Another device of the host's hardware does not exist in the guest,
// and its number may name another one there.
func transformDevices(t *translation) error {
	for i, device := range t.spec().Linux.Devices {
		if err := t.device(device); err != nil {
			return fmt.Errorf("linux.devices[%d] (%s): %w", i, device.Path, err)
		}
	}
	return nil
}

func (t *translation) device(device specs.LinuxDevice) error {
	switch device.Type {
	case "p":
		return nil
	case "c", "u":
		if guestDevice(device.Major, device.Minor) != "" {
			return nil
		}
		return fmt.Errorf("the host's character device %d:%d is %w", device.Major, device.Minor, ErrUnsupported)
	case "b":
		const limit = 1 << 20 // of the kernel's minor numbers; major ones end at 1 << 12
		if device.Major < 0 || device.Major >= limit || device.Minor < 0 || device.Minor >= limit {
			return fmt.Errorf("%d:%d is no device number", device.Major, device.Minor)
		}
		t.blockDevice(uint32(device.Major), uint32(device.Minor))
		return nil
	default:
		return fmt.Errorf("type %q is none of c, u, p and b", device.Type)
	}
}

// blockDevice notes a block device of the host, once.
func (t *translation) blockDevice(major, minor uint32) {
	device := BlockDevice{Major: major, Minor: minor, ReadOnly: true}
	if r := t.spec().Linux.Resources; r != nil {
		device.ReadOnly = !mayWrite(r.Devices, int64(major), int64(minor))
	}
	if !slices.Contains(t.guest.BlockDevices, device) {
		t.guest.BlockDevices = append(t.guest.BlockDevices, device)
	}
}

// mayWrite applies device rules to a block device: the last one that speaks of
// writing to it counts.
func mayWrite(rules []specs.LinuxDeviceCgroup, major, minor int64) bool {
	allowed := false
	for _, rule := range rules {
		switch {
		case rule.Type != "" && rule.Type != "a" && rule.Type != "b":
		case !matches(rule.Major, major) || !matches(rule.Minor, minor):
		case rule.Access == "" || strings.Contains(rule.Access, "w"):
			allowed = rule.Allow
		}
	}
	return allowed
}

// matches tells whether a rule's number is a device's, or any.
func matches(rule *int64, number int64) bool {
	return rule == nil || *rule == -1 || *rule == number
}

// blockDeviceMount replaces the bind mount of a device node: what is mounted is
// not a file but the device, and that is the guest's.
func (t *translation) blockDeviceMount(m *specs.Mount, stat *syscall.Stat_t) {
	mode := os.FileMode(stat.Mode).Perm()
	device := specs.LinuxDevice{
		Path: m.Destination, Type: "b",
		Major: int64(unix.Major(stat.Rdev)), Minor: int64(unix.Minor(stat.Rdev)),
		FileMode: &mode, UID: &stat.Uid, GID: &stat.Gid,
	}
	t.spec().Linux.Devices = append(t.spec().Linux.Devices, device)
	t.blockDevice(unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
	m.Type = deviceMount
}

// deviceMount is the type of a mount that has become a device: no other has a
// NUL byte.
const deviceMount = "\x00device"
