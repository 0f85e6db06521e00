package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/qmp"
)

var errGuestKeeps = errors.New("the guest refuses to give the device back")

// attached is a device that the guest has.
type attached struct {
	// slot is nil for a device that was there from the start: the root bus lets
	// none go.
	slot *slot
	// undo are the QMP commands that release its back end, last first.
	undo []command
	// asked says that the guest was asked to let go and has not answered. Only
	// Detach, which is alone, touches it.
	asked bool
	// deleted gets the guest's answer to an unplug request. It has room for
	// one, and only Detach, which is alone, takes from it.
	deleted chan unplugged
}

// unplugged is the guest's answer to an unplug request: nil when it let go.
type unplugged struct{ err error }

type command struct {
	name      string
	arguments map[string]any
}

// markDeleted notes the guest's answer. The newest counts.
func (a *attached) markDeleted(err error) {
	if a.deleted == nil {
		return
	}
	select {
	case <-a.deleted:
	default:
	}
	a.deleted <- unplugged{err}
}

// lockPlugging lets one caller at a time change the VM.
func (vm *VM) lockPlugging(ctx context.Context) (unlock func(), err error) {
	select {
	case vm.plugging <- struct{}{}:
		return func() { <-vm.plugging }, nil
	case <-vm.ended:
		return nil, hypervisor.ErrEnded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Attach plugs a disk, a NIC, or a share or vsock device with a vhost-user
// socket into a free slot; see hypervisor.VM.
func (vm *VM) Attach(ctx context.Context, device hypervisor.Device) error {
	if err := checkDevice(device); err != nil {
		return err
	}
	unlock, err := vm.lockPlugging(ctx)
	if err != nil {
		return fmt.Errorf("attach %q: %w", device.DeviceID(), err)
	}
	defer unlock()
	if err := vm.attach(ctx, device); err != nil {
		return fmt.Errorf("attach %q: %w", device.DeviceID(), err)
	}
	return nil
}

func (vm *VM) attach(ctx context.Context, device hypervisor.Device) error {
	if _, err := vm.running(); err != nil {
		return err
	}
	a, err := vm.reserve(device.DeviceID())
	if err != nil {
		return err
	}
	properties, err := vm.backend(ctx, device, a)
	if err == nil {
		err = vm.call(ctx, "device_add", properties.arguments(a.slot), nil)
	}
	if err == nil {
		return nil
	}
	// Undone even when ctx has ended: what is left would block the slot.
	vm.release(context.WithoutCancel(ctx), device.DeviceID(), a)
	return err
}

// reserve takes a free slot for the device.
func (vm *VM) reserve(id string) (*attached, error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.devices[id] != nil {
		return nil, fmt.Errorf("id is taken: %w", os.ErrExist)
	}
	for _, free := range vm.slots {
		if free.occupant == "" {
			a := &attached{slot: free, deleted: make(chan unplugged, 1)}
			free.occupant = id
			vm.devices[id] = a
			return a, nil
		}
	}
	return nil, fmt.Errorf("%w: all %d are taken", hypervisor.ErrNoSlot, len(vm.slots))
}

// release undoes a device's back end and frees its slot.
func (vm *VM) release(ctx context.Context, id string, a *attached) {
	for len(a.undo) > 0 {
		last := a.undo[len(a.undo)-1]
		a.undo = a.undo[:len(a.undo)-1]
		if err := vm.call(ctx, last.name, last.arguments, nil); err != nil {
			vm.opts.Log.DebugContext(ctx, "release a device's back end", "device", id, "error", err)
		}
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	delete(vm.devices, id)
	a.slot.occupant = ""
}

// name returns a new name for a back end, unlike those of cold-plugged ones.
func (vm *VM) name(kind string) string {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.serial++
	return "hot-" + kind + strconv.Itoa(vm.serial)
}

// backend makes the device's back end and notes in a how to undo it.
func (vm *VM) backend(ctx context.Context, device hypervisor.Device, a *attached) (properties, error) {
	switch d := device.(type) {
	case *hypervisor.Disk:
		return vm.diskBackend(ctx, d, a)
	case *hypervisor.NIC:
		return vm.nicBackend(ctx, d, a)
	case *hypervisor.Share:
		if d.Socket == nil {
			return nil, fmt.Errorf("a 9p share cannot be plugged: %w", hypervisor.ErrUnsupported)
		}
		backend, err := vm.socketBackend(ctx, "share", d.Socket, a)
		return shareProperties(d, backend), err
	case *hypervisor.Vsock:
		if d.Backend == nil {
			backend := vm.name("vhost")
			err := vm.sendFile(ctx, backend, d.Vhost, a)
			return vsockProperties(d, backend), err
		}
		backend, err := vm.socketBackend(ctx, "vsock", d.Backend, a)
		return vsockProperties(d, backend), err
	default:
		return nil, hypervisor.ErrUnsupported
	}
}

// sendFile gives QEMU a named descriptor, which it drops on use.
func (vm *VM) sendFile(ctx context.Context, name string, file *os.File, a *attached) error {
	arguments := map[string]any{"fdname": name}
	if err := vm.callWithFile(ctx, "getfd", arguments, nil, file); err != nil {
		return err
	}
	a.undo = append(a.undo, command{"closefd", arguments})
	return nil
}

// usedFile forgets the last sendFile's undo, because a back end took the file.
func (a *attached) usedFile() { a.undo = a.undo[:len(a.undo)-1] }

func (vm *VM) socketBackend(ctx context.Context, kind string, socket *os.File, a *attached) (string, error) {
	name := vm.name(kind)
	if err := vm.sendFile(ctx, name, socket, a); err != nil {
		return "", err
	}
	err := vm.call(ctx, "chardev-add", map[string]any{
		"id": name,
		"backend": map[string]any{
			"type": "socket",
			"data": map[string]any{
				"server": false,
				"addr":   map[string]any{"type": "fd", "data": map[string]any{"str": name}},
			},
		},
	}, nil)
	if err != nil {
		return "", err
	}
	a.usedFile()
	a.undo = append(a.undo, command{"chardev-remove", map[string]any{"id": name}})
	return name, nil
}

func (vm *VM) nicBackend(ctx context.Context, d *hypervisor.NIC, a *attached) (properties, error) {
	name := vm.name("net")
	arguments := map[string]any{"type": "tap", "id": name, "vhost": len(d.Vhost) > 0}
	var err error
	if d.Stream != nil {
		if err = vm.sendFile(ctx, name, d.Stream, a); err == nil {
			arguments = map[string]any{"type": "stream", "id": name, "server": false,
				"addr": map[string]any{"type": "fd", "str": name}}
		}
	} else {
		arguments["fds"], err = vm.sendFiles(ctx, name+"-tap", d.Tap, a)
		if err == nil && len(d.Vhost) > 0 {
			arguments["vhostfds"], err = vm.sendFiles(ctx, name+"-vhost", d.Vhost, a)
		}
	}
	if err == nil {
		err = vm.call(ctx, "netdev_add", arguments, nil)
	}
	if err != nil {
		return nil, err
	}
	a.undo = []command{{"netdev_del", map[string]any{"id": name}}} // it took the files
	return nicProperties(d, name), nil
}

// sendFiles gives QEMU named descriptors, and returns their names as its
// options list them.
func (vm *VM) sendFiles(ctx context.Context, prefix string, files []*os.File, a *attached) (string, error) {
	names := make([]string, len(files))
	for i, file := range files {
		names[i] = prefix + strconv.Itoa(i)
		if err := vm.sendFile(ctx, names[i], file, a); err != nil {
			return "", err
		}
	}
	return strings.Join(names, ":"), nil
}

func (vm *VM) diskBackend(ctx context.Context, d *hypervisor.Disk, a *attached) (properties, error) {
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := vm.callWithFile(ctx, "add-fd", nil, &set, d.File); err != nil {
		return nil, err
	}
	a.undo = append(a.undo, command{"remove-fd", map[string]any{"fdset-id": set.ID}})
	node := vm.name("disk")
	err := vm.call(ctx, "blockdev-add", map[string]any{
		"driver": blockDriver(d), "node-name": node,
		"filename": "/dev/fdset/" + strconv.Itoa(set.ID), "read-only": d.ReadOnly,
		"locking": blockLocking(d),
	}, nil)
	if err != nil {
		return nil, err
	}
	a.undo = append(a.undo, command{"blockdev-del", map[string]any{"node-name": node}})
	return diskProperties(d, node), nil
}

// Detach unplugs a device and returns when the guest has let go of it; see
// hypervisor.VM. When ctx ends before, the request stands, and a later Detach
// completes it. A device of the start cannot be unplugged: ErrUnsupported.
func (vm *VM) Detach(ctx context.Context, id string) error {
	unlock, err := vm.lockPlugging(ctx)
	if err != nil {
		return fmt.Errorf("detach %q: %w", id, err)
	}
	defer unlock()
	if err := vm.detach(ctx, id); err != nil {
		return fmt.Errorf("detach %q: %w", id, err)
	}
	return nil
}

func (vm *VM) detach(ctx context.Context, id string) error {
	if _, err := vm.running(); err != nil {
		return err
	}
	vm.mu.Lock()
	a := vm.devices[id]
	vm.mu.Unlock()
	switch {
	case a == nil:
		return hypervisor.ErrNoDevice
	case a.slot == nil:
		return fmt.Errorf("the device was there from the start: %w", hypervisor.ErrUnsupported)
	}
	if err := vm.unplug(ctx, id, a); err != nil {
		return err
	}
	vm.release(context.WithoutCancel(ctx), id, a)
	return nil
}

// unplug asks the guest for a device and waits until it is gone.
func (vm *VM) unplug(ctx context.Context, id string, a *attached) error {
	err := vm.call(ctx, "device_del", map[string]any{"id": qemuID(id)}, nil)
	var refusal *qmp.Error
	switch {
	case err == nil:
		a.asked = true
	case errors.As(err, &refusal) && refusal.Class == "DeviceNotFound":
		// An earlier request was granted after its caller had left.
		return nil
	case errors.As(err, &refusal) && a.asked:
		// QEMU asks once only while the guest has not answered.
	default:
		return err
	}
	select {
	case answer := <-a.deleted:
		a.asked = false
		return answer.err
	case <-vm.ended:
		return hypervisor.ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}
