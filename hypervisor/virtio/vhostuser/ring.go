package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/virtio/guestmem"
	"kata-runtime/hypervisor/virtio/virtqueue"
)

// Ring is a started virtqueue, the way to call the guest about it and, for a
// Waiter, to wait for the guest.
type Ring struct {
	*virtqueue.Queue
	callFD int
	bell   *bell
}

// Wait blocks until the guest notifies, and reports true, or until Interrupt is
// called. It does not block where more is true, which has to ask for notifications
// and look at the ring once more: one that comes later than that ends the wait. An
// error says that none will come any more. It is for one goroutine at a time, and may
// be used during Device.Quiesce.
func (r *Ring) Wait(more func() bool) (bool, error) { return r.bell.wait(more) }

// Pause blocks for so long, or less where the guest notifies. Whoever may be
// interrupted looks afterwards whether that was so.
func (r *Ring) Pause(d time.Duration) { r.bell.pause(d) }

// Interrupt ends a Wait, or the next one if there is none.
func (r *Ring) Interrupt() { r.bell.interrupt() }

// Call tells the guest to look at its used ring. It never blocks: an eventfd
// whose counter is full has the guest's attention already. Like all methods of
// a Ring it is not to be used during Device.Quiesce.
func (r *Ring) Call() {
	if r.callFD == noFD {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// Go's scheduler is not told of a call that never waits: it would begin to watch it.
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(r.callFD), uintptr(unsafe.Pointer(&one[0])), uintptr(len(one)))
}

// vring is what the VMM has said of one queue, and the queue once it runs.
type vring struct {
	index   int
	size    uint32
	base    uint16
	addr    *vringAddr
	callFD  int
	kick    *os.File
	enabled bool
	// bell takes the place of kick where the device is a Waiter.
	waits bool
	bell  *bell

	ring   *Ring // not nil while the queue runs
	waiter sync.WaitGroup
	// left is the base at which the queue was last stopped, if it ever ran.
	left uint16
	ran  bool
}

// ready says whether the queue can start.
func (v *vring) ready(memory *guestmem.Table) bool {
	return v.ring == nil && v.enabled && (v.kick != nil || v.bell != nil) && v.addr != nil && v.size != 0 && memory != nil
}

// queueConfig finds the ring's parts in the given memory.
func (v *vring) queueConfig(memory *guestmem.Table, features uint64) (virtqueue.Config, error) {
	if v.size == 0 || v.size > virtqueue.MaxSize {
		return virtqueue.Config{}, fmt.Errorf("queue %d: size %d", v.index, v.size)
	}
	size := uint16(v.size)
	desc, err1 := memory.User(v.addr.desc, virtqueue.DescBytes(size))
	avail, err2 := memory.User(v.addr.avail, virtqueue.AvailBytes(size))
	used, err3 := memory.User(v.addr.used, virtqueue.UsedBytes(size))
	if err := errors.Join(err1, err2, err3); err != nil {
		return virtqueue.Config{}, fmt.Errorf("queue %d: %w", v.index, err)
	}
	return virtqueue.Config{Size: size, Desc: desc, Avail: avail, Used: used, Base: v.base, Features: features}, nil
}

// setKick takes over fd as the queue's kick descriptor.
func (v *vring) setKick(fd int) error {
	// Only a descriptor that does not block can be closed under its reader. VMMs
	// make theirs so; the mode belongs to what both sides share.
	if err := unix.SetNonblock(fd, true); err != nil {
		closeFD(fd)
		return fmt.Errorf("queue %d: kick descriptor: %w", v.index, err)
	}
	kick, err := kickFile(fd)
	if err != nil {
		return fmt.Errorf("queue %d: kick descriptor: %w", v.index, err)
	}
	v.dropKick()
	if v.waits {
		if v.bell, err = newBell(kick); err != nil {
			return fmt.Errorf("queue %d: %w", v.index, err)
		}
		return nil
	}
	v.kick = kick
	return nil
}

func (v *vring) dropKick() {
	if v.bell != nil {
		v.bell.close()
		v.bell = nil
	}
	if v.kick != nil {
		_ = v.kick.Close()
		v.kick = nil
	}
}

// watch passes the guest's notifications on to device until the kick descriptor
// is closed. A Waiter watches by itself.
func (v *vring) watch(device Device) {
	kick := v.kick
	if kick == nil {
		return
	}
	v.waiter.Go(func() {
		// The guest may have made buffers available before the queue started.
		device.Kicked(v.index)
		var counter [8]byte
		for {
			if _, err := kick.Read(counter[:]); err != nil {
				return
			}
			device.Kicked(v.index)
		}
	})
}
