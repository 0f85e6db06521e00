package hypervisor

import (
	"net"
	"os"
)

// Device is something that a VM can have: *Disk, *NIC, *Share or *Vsock, and
// nothing else.
type Device interface {
	// DeviceID is the caller's name for the device, unique in the VM: 1-31
	// letters, digits, '-' and '_', starting with a letter.
	DeviceID() string
	device()
}

// Disk is a block device.
type Disk struct {
	ID string
	// File is the open image or block device. The driver duplicates it.
	File     *os.File
	ReadOnly bool
	// Serial is what the guest reads as the disk's serial, at most 20 bytes.
	Serial string
}

// NIC is a network interface on a tap or on a stream: one of the two is set.
type NIC struct {
	ID string
	// Tap holds one open descriptor per queue pair. The driver duplicates them.
	Tap []*os.File
	// Stream is a connected stream socket that carries Ethernet frames, each
	// after its length in four bytes, to and from a network in user space.
	Stream *os.File
	// Vhost holds an open /dev/vhost-net for each of them, or nothing: then the
	// VMM works the queues itself. The driver duplicates them.
	Vhost []*os.File
	MAC   net.HardwareAddr
	// MTU is offered to the guest when positive.
	MTU int
}

// Share is a directory of the host that the guest can mount by its tag.
type Share struct {
	ID  string
	Tag string
	// Socket is a connected vhost-user socket of a virtiofsd. Nil: Directory
	// is shared by 9p, which the VMM itself serves.
	Socket    *os.File
	Directory string
}

// Vsock is the guest's vsock device. Exactly one of the two files is set.
type Vsock struct {
	ID  string
	CID uint32
	// Vhost is an open /dev/vhost-vsock whose guest CID was set.
	Vhost *os.File
	// Backend is a connected vhost-user socket of a vsock device.
	Backend *os.File
}

// DeviceID implements Device.
func (d *Disk) DeviceID() string { return d.ID }

// DeviceID implements Device.
func (n *NIC) DeviceID() string { return n.ID }

// DeviceID implements Device.
func (s *Share) DeviceID() string { return s.ID }

// DeviceID implements Device.
func (v *Vsock) DeviceID() string { return v.ID }

func (*Disk) device()  {}
func (*NIC) device()   {}
func (*Share) device() {}
func (*Vsock) device() {}
