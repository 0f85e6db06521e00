package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"kata-runtime/hypervisor"
)

// properties describe a device in the order of a command line; as a map they
// are the arguments of device_add.
type properties []property

type property struct {
	key string
	// value is a string, a bool or an int.
	value any
}

// keyValues renders -device's argument.
func (p properties) keyValues() string {
	parts := make([]string, len(p))
	for i, entry := range p {
		text := fmt.Sprint(entry.value)
		if on, ok := entry.value.(bool); ok {
			text = onOff(on)
		}
		if parts[i] = entry.key + "=" + quote(text); entry.key == "driver" {
			parts[i] = text
		}
	}
	return strings.Join(parts, ",")
}

// arguments renders device_add's arguments for a device in a slot.
func (p properties) arguments(s *slot) map[string]any {
	m := map[string]any{"bus": s.bus, "addr": fmt.Sprintf("0x%x", s.address)}
	for _, entry := range p {
		m[entry.key] = entry.value
	}
	return m
}

// qemuID is the id that a device of the caller's has in QEMU: apart from the
// driver's own ids.
func qemuID(id string) string { return "dev-" + id }

func virtio(driver string, d hypervisor.Device) properties {
	return properties{{"driver", driver}, {"id", qemuID(d.DeviceID())}, {"disable-legacy", "on"}}
}

func diskProperties(d *hypervisor.Disk, node string) properties {
	p := append(virtio("virtio-blk-pci", d), property{"drive", node})
	if d.Serial != "" {
		p = append(p, property{"serial", d.Serial})
	}
	return p
}

func nicProperties(d *hypervisor.NIC, netdev string) properties {
	// Without romfile, the firmware would load a network boot program.
	p := append(virtio("virtio-net-pci", d),
		property{"netdev", netdev}, property{"mac", d.MAC.String()}, property{"romfile", ""})
	if len(d.Tap) > 1 {
		// Two vectors per queue pair, one for the control queue, one for
		// configuration changes.
		p = append(p, property{"mq", true}, property{"vectors", 2*len(d.Tap) + 2})
	}
	if d.MTU > 0 {
		p = append(p, property{"host_mtu", d.MTU})
	}
	return p
}

func shareProperties(d *hypervisor.Share, backend string) properties {
	if d.Socket == nil {
		return append(virtio("virtio-9p-pci", d), property{"fsdev", backend}, property{"mount_tag", d.Tag})
	}
	// This device is younger than the legacy interface, which it lacks.
	return properties{
		{"driver", "vhost-user-fs-pci"},
		{"id", qemuID(d.DeviceID())},
		{"chardev", backend},
		{"tag", d.Tag},
		{"queue-size", shareQueueSize},
	}
}

// shareQueueSize is the most that QEMU takes. A request of 1 MiB needs 256
// descriptors and a few more.
const shareQueueSize = 1024

// vsockProperties takes the chardev's name, or the descriptor of vhost-vsock.
func vsockProperties(d *hypervisor.Vsock, backend string) properties {
	if d.Backend != nil {
		return append(virtio("vhost-user-vsock-pci", d), property{"chardev", backend})
	}
	return append(virtio("vhost-vsock-pci", d),
		property{"guest-cid", int(d.CID)}, property{"vhostfd", backend})
}

// blockDriver is QEMU's protocol driver for the disk's file.
func blockDriver(d *hypervisor.Disk) string {
	if info, err := d.File.Stat(); err == nil && info.Mode()&os.ModeDevice != 0 {
		return "host_device"
	}
	return "file"
}

// blockLocking protects an image from a second VM. A block device is not the
// VM's alone: who else may use it is the business of whoever handed it out. Nothing
// else will do: "auto" goes without a lock where QEMU thinks that there is none.
func blockLocking(d *hypervisor.Disk) string {
	if blockDriver(d) == "host_device" {
		return "off"
	}
	return "on"
}

const (
	maxSerial = 20
	// maxTag is virtio-fs's tag length (virtio 1.2, 5.11.4).
	maxTag = 36
	// maxTaps is the most queue pairs that QEMU takes.
	maxTaps = 256
	// firstGuestCID is the lowest CID of a guest (vsock(7)).
	firstGuestCID = 3
)

// checkDevice says whether d is complete and within the ranges that
// hypervisor's types state.
func checkDevice(d hypervisor.Device) error {
	if d == nil {
		return errors.New("device is nil")
	}
	if id := d.DeviceID(); !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,30}$`).MatchString(id) {
		return fmt.Errorf("device %q: invalid id", id)
	}
	var err error
	switch d := d.(type) {
	case *hypervisor.Disk:
		err = checkDisk(d)
	case *hypervisor.NIC:
		err = checkNIC(d)
	case *hypervisor.Share:
		err = checkShare(d)
	case *hypervisor.Vsock:
		if (d.Vhost == nil) == (d.Backend == nil) {
			err = errors.New("want a vhost file or a back end")
		} else if d.Vhost != nil && d.CID < firstGuestCID {
			err = fmt.Errorf("CID %d is not a guest's", d.CID)
		}
	default:
		err = hypervisor.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("device %q: %w", d.DeviceID(), err)
	}
	return nil
}

func checkDisk(d *hypervisor.Disk) error {
	switch {
	case d.File == nil:
		return errors.New("disk without file")
	case len(d.Serial) > maxSerial:
		return fmt.Errorf("serial %q has more than %d bytes", d.Serial, maxSerial)
	}
	return nil
}

func checkNIC(d *hypervisor.NIC) error {
	if (len(d.Tap) == 0) == (d.Stream == nil) || len(d.Tap) > maxTaps || d.MTU < 0 || len(d.MAC) != 6 {
		return fmt.Errorf("NIC with %d taps (stream: %v), MTU %d and MAC %q: want 1-%d or a stream, no negative one, 6 bytes",
			len(d.Tap), d.Stream != nil, d.MTU, d.MAC, maxTaps)
	}
	if len(d.Vhost) != 0 && len(d.Vhost) != len(d.Tap) {
		return fmt.Errorf("NIC with %d taps and %d vhost files: want as many or none", len(d.Tap), len(d.Vhost))
	}
	if slices.Contains(d.Tap, nil) || slices.Contains(d.Vhost, nil) {
		return errors.New("NIC with a nil file")
	}
	return nil
}

func checkShare(d *hypervisor.Share) error {
	switch {
	case d.Tag == "" || len(d.Tag) > maxTag:
		return fmt.Errorf("tag %q: want 1-%d bytes", d.Tag, maxTag)
	case d.Socket == nil && !filepath.IsAbs(d.Directory):
		return fmt.Errorf("share without a socket, and directory %q is not absolute", d.Directory)
	}
	return nil
}

// duplicate returns a copy of d with files of its own, and those files.
func duplicate(d hypervisor.Device) (_ hypervisor.Device, files []*os.File, err error) {
	dup := func(file *os.File) *os.File {
		if file == nil || err != nil {
			return nil
		}
		var copied *os.File
		if copied, err = dupFile(file); err == nil {
			files = append(files, copied)
		}
		return copied
	}
	var result hypervisor.Device
	switch d := d.(type) {
	case *hypervisor.Disk:
		copied := *d
		copied.File = dup(d.File)
		result = &copied
	case *hypervisor.NIC:
		copied := *d
		copied.Stream = dup(d.Stream)
		copied.Tap = make([]*os.File, len(d.Tap))
		for i, tap := range d.Tap {
			copied.Tap[i] = dup(tap)
		}
		copied.Vhost = make([]*os.File, len(d.Vhost))
		for i, vhost := range d.Vhost {
			copied.Vhost[i] = dup(vhost)
		}
		result = &copied
	case *hypervisor.Share:
		copied := *d
		copied.Socket = dup(d.Socket)
		result = &copied
	case *hypervisor.Vsock:
		copied := *d
		copied.Vhost, copied.Backend = dup(d.Vhost), dup(d.Backend)
		result = &copied
	}
	if err != nil {
		closeAll(files)
		return nil, nil, fmt.Errorf("device %q: %w", d.DeviceID(), err)
	}
	return result, files, nil
}
