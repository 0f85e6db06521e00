package oci

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
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

// transformDevices owns linux.devices. A device of the host's hardware does
// not exist in the guest, and its number may name another one there.
func transformDevices(t *translation) error {
	for i, device := range t.spec().Linux.Devices {
		if err := checkDevice(device); err != nil {
			return fmt.Errorf("linux.devices[%d] (%s): %w", i, device.Path, err)
		}
	}
	return nil
}

func checkDevice(device specs.LinuxDevice) error {
	switch device.Type {
	case "p":
		return nil
	case "c", "u":
		if guestDevice(device.Major, device.Minor) != "" {
			return nil
		}
		return fmt.Errorf("the host's character device %d:%d is %w", device.Major, device.Minor, ErrUnsupported)
	case "b":
		return fmt.Errorf("the host's block device %d:%d is %w (block volumes are planned)",
			device.Major, device.Minor, ErrUnsupported)
	default:
		return fmt.Errorf("type %q is none of c, u, p and b", device.Type)
	}
}
