// Package device plugs the host's block devices, and image files, into a pod's
// virtual machine for as long as a container needs them. What several containers
// have is plugged in once, and unplugged with the last of them.
package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"

	"kata-runtime/hypervisor"
)

// VM is what devices are plugged into.
type VM interface {
	Attach(ctx context.Context, device hypervisor.Device) error
	Detach(ctx context.Context, id string) error
}

// Opener opens a block device of the host; see Open.
type Opener func(major, minor uint32, readOnly bool) (file *os.File, isReadOnly bool, err error)

// Block names a block device of the host, or an image file. The same one with and
// without write access is two disks of the machine: what a container may not write
// to is read-only outside of the guest's reach.
type Block struct {
	// Major and Minor are the block device's, or of that on which the file is.
	Major, Minor uint32
	// Inode is the file's; 0: it is a block device.
	Inode    uint64
	ReadOnly bool
}

// String says what it is.
func (b Block) String() string {
	if b.Inode != 0 {
		return fmt.Sprintf("image file with inode %d on device %d:%d", b.Inode, b.Major, b.Minor)
	}
	return fmt.Sprintf("block device %d:%d", b.Major, b.Minor)
}

// Disk is a device in the machine.
type Disk struct {
	Block
	// Serial is what the guest reads as the disk's serial.
	Serial string
}

// ErrNotReserved says that the container has no devices reserved.
var ErrNotReserved = errors.New("no devices are reserved for the container")

// Manager counts who needs what. Make it with New; its methods may be called
// from any goroutine.
type Manager struct {
	vm   VM
	open Opener

	mu         sync.Mutex // guards what follows
	containers map[string][]Block
	disks      map[Block]*disk
	// leaving are the ids of disks that nobody needs and that the machine still
	// has, because unplugging failed.
	leaving []string
	serial  int
}

// disk is a device that at least one container has reserved.
type disk struct {
	users int // guarded by Manager.mu
	// file is an image's that is not in the machine yet; nil for a device. It is
	// guarded as id is.
	file *os.File
	// plugging is held while the device is being plugged or unplugged. A
	// channel, so that waiting for it ends with a context.
	plugging chan struct{}
	// id is guarded by plugging, or by having no users; empty: not in the machine.
	id string
}

// New returns a manager that opens devices with open.
func New(vm VM, open Opener) *Manager {
	return &Manager{vm: vm, open: open, containers: make(map[string][]Block), disks: make(map[Block]*disk)}
}

// Reserve notes what a container needs: block devices, and images whose files it
// takes over. It replaces nothing: a container that has a reservation keeps it.
// UnmapFromGuest undoes it.
func (m *Manager) Reserve(container string, blocks []Block, images ...Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, reserved := m.containers[container]; reserved {
		CloseImages(images)
		return
	}
	var own []Block
	reserve := func(b Block, file *os.File) {
		if slices.Contains(own, b) {
			closeFile(file)
			return
		}
		own = append(own, b)
		if m.disks[b] == nil {
			m.disks[b] = &disk{plugging: make(chan struct{}, 1), file: file}
		} else {
			closeFile(file) // it is there, or on its way
		}
		m.disks[b].users++
	}
	for _, b := range blocks {
		reserve(b, nil)
	}
	for _, image := range images {
		reserve(image.Block, image.File)
	}
	m.containers[container] = own
}

// MapToGuest plugs in what the container has reserved and the machine lacks, and
// returns all of it. After an error it may be called again.
func (m *Manager) MapToGuest(ctx context.Context, container string) ([]Disk, error) {
	m.mu.Lock()
	blocks, reserved := m.containers[container]
	m.mu.Unlock()
	if !reserved {
		return nil, fmt.Errorf("container %s: %w", container, ErrNotReserved)
	}
	result := make([]Disk, 0, len(blocks))
	for _, b := range blocks {
		m.mu.Lock()
		d := m.disks[b]
		m.mu.Unlock()
		if err := m.plug(ctx, b, d); err != nil {
			return nil, fmt.Errorf("plug in %s: %w", b, err)
		}
		result = append(result, Disk{Block: b, Serial: d.id})
	}
	return result, nil
}

func (m *Manager) plug(ctx context.Context, b Block, d *disk) error {
	select {
	case d.plugging <- struct{}{}:
		defer func() { <-d.plugging }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if d.id != "" {
		return nil
	}
	file, readOnly := d.file, b.ReadOnly
	if file == nil {
		var err error
		if file, readOnly, err = m.open(b.Major, b.Minor, b.ReadOnly); err != nil {
			return err
		}
		defer file.Close() // the machine has a duplicate
	}
	m.mu.Lock()
	m.serial++
	id := "disk-" + strconv.Itoa(m.serial)
	m.mu.Unlock()
	if err := m.vm.Attach(ctx, &hypervisor.Disk{ID: id, File: file, ReadOnly: readOnly, Serial: id}); err != nil {
		return err
	}
	d.id = id
	closeFile(d.file)
	d.file = nil
	return nil
}

// UnmapFromGuest ends a container's reservation, and unplugs what no other
// container needs. What could not be unplugged is tried again by every later
// call. A container without a reservation is not an error.
func (m *Manager) UnmapFromGuest(ctx context.Context, container string) error {
	m.mu.Lock()
	for _, b := range m.containers[container] {
		d := m.disks[b]
		if d.users--; d.users > 0 {
			continue
		}
		// Nobody holds plugging: that is done on behalf of a reservation.
		delete(m.disks, b)
		closeFile(d.file)
		if d.id != "" {
			m.leaving = append(m.leaving, d.id)
		}
	}
	delete(m.containers, container)
	leaving := m.leaving
	m.leaving = nil
	m.mu.Unlock()

	var errs []error
	for _, id := range leaving {
		if err := m.vm.Detach(ctx, id); err != nil && !errors.Is(err, hypervisor.ErrNoDevice) && !errors.Is(err, hypervisor.ErrEnded) {
			errs = append(errs, err)
			m.mu.Lock()
			m.leaving = append(m.leaving, id)
			m.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}
