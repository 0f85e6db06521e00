package oci

import (
	"fmt"
	"io/fs"
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
	case [2]int64{1, 11}:
		return "/dev/kmsg"
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
	case [2]int64{10, 236}:
		return "/dev/mapper/control"
	case [2]int64{10, 237}:
		return "/dev/loop-control"
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
//
// A privileged container's list is no wish but all that the host has. Of those
// it gets what the guest has too: the host's disks, the root's among them, are
// what the machine is there to keep away. Loop devices it gets of the guest's own.
func transformDevices(t *translation) error {
	linux := t.spec().Linux
	privileged := linux.Resources != nil && allowsAll(linux.Resources.Devices)
	var kept []specs.LinuxDevice
	listed := false
	for i, device := range linux.Devices {
		listed = listed || privileged && t.isListed(device)
		if privileged && !inGuest(device) && t.isListed(device) {
			t.drop(fmt.Sprintf("linux.devices[%d]", i), device.Path+" (the host's, of a privileged container)")
			continue
		}
		if err := t.device(device); err != nil {
			return fmt.Errorf("linux.devices[%d] (%s): %w", i, device.Path, err)
		}
		kept = append(kept, device)
	}
	if listed {
		kept = appendLoops(kept)
	}
	linux.Devices = slices.Concat(kept, t.deviceMounts)
	return nil
}

const (
	// loopMajor is the number of loop devices' driver, the host's and the guest's.
	loopMajor = 7
	// loops is how many of the guest's loop devices a container has nodes of: as many
	// as Linux makes by default.
	loops = 8
)

// appendLoops adds what makes loop devices, and nodes of the guest's first ones. The
// kernel makes them as they are asked for, and a container's /dev does not follow. They
// are no BlockDevices: the guest knows by their number that nothing was plugged in.
func appendLoops(devices []specs.LinuxDevice) []specs.LinuxDevice {
	control, disk := fs.FileMode(0o600), fs.FileMode(0o660)
	own := []specs.LinuxDevice{{Path: "/dev/loop-control", Type: "c", Major: 10, Minor: 237, FileMode: &control}}
	for i := range loops {
		own = append(own, specs.LinuxDevice{Path: fmt.Sprintf("/dev/loop%d", i), Type: "b", Major: loopMajor, Minor: int64(i), FileMode: &disk})
	}
	for _, device := range own {
		if !slices.ContainsFunc(devices, func(other specs.LinuxDevice) bool { return other.Path == device.Path }) {
			devices = append(devices, device)
		}
	}
	return devices
}

// allowsAll tells whether device rules allow everything, which is how callers
// say "privileged": the last rule for all devices and every access counts.
func allowsAll(rules []specs.LinuxDeviceCgroup) bool {
	const anyNumber = -2 // equal to no number of a rule
	allowed := false
	for _, rule := range rules {
		all := (rule.Type == "" || rule.Type == "a") && matches(rule.Major, anyNumber) && matches(rule.Minor, anyNumber)
		if all && (rule.Access == "" || strings.Contains(rule.Access, "r") && strings.Contains(rule.Access, "w") && strings.Contains(rule.Access, "m")) {
			allowed = rule.Allow
		}
	}
	return allowed
}

// isListed tells whether a device is where the host has the same: then a caller
// may have found it there. One at another path somebody asked for by name, such
// as a block volume of a privileged pod.
func (t *translation) isListed(device specs.LinuxDevice) bool {
	info, err := t.host.Stat(device.Path)
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	isBlock := info.Mode()&fs.ModeCharDevice == 0
	return ok && info.Mode()&fs.ModeDevice != 0 && isBlock == (device.Type == "b") &&
		int64(unix.Major(stat.Rdev)) == device.Major && int64(unix.Minor(stat.Rdev)) == device.Minor
}

// inGuest tells whether the guest has the same device.
func inGuest(device specs.LinuxDevice) bool {
	switch device.Type {
	case "p":
		return true
	case "c", "u":
		return guestDevice(device.Major, device.Minor) != ""
	default:
		return false
	}
}

func (t *translation) device(device specs.LinuxDevice) error {
	switch device.Type {
	case "p", "c", "u":
		if inGuest(device) {
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
	t.deviceMounts = append(t.deviceMounts, device)
	t.blockDevice(unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
	m.Type = deviceMount
}

// deviceMount is the type of a mount that has become a device: no other has a
// NUL byte.
const deviceMount = "\x00device"
