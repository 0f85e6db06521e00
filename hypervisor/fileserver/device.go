package fileserver

import (
	"runtime/debug"
	"sync"

	"kata-runtime/hypervisor/virtio/guestmem"
	"kata-runtime/hypervisor/virtio/vhostuser"
)

// featureVersion1 is VIRTIO_F_VERSION_1. A file system device has no features of
// its own but one for notifications, which no guest's kernel has.
const featureVersion1 = uint64(1) << 32

// queueCount is that of the queue for forgotten files and one for requests.
const queueCount = 2

// forgetQueue has nothing but requests without an answer.
const forgetQueue = 0

// device implements vhostuser.Waiter.
type device struct {
	session *session
	queues  [queueCount]*queue
	// memory is held for reading by whoever uses a ring or guest memory. It is
	// taken before a queue's mutex.
	memory sync.RWMutex
	watchdog
	// tidy gives back to the host what memory is not in use.
	tidy func()
	// failed is told of what the guest's driver broke; once.
	failed func(error)
	once   sync.Once
	// ended is closed when no queue will be started any more.
	ended chan struct{}
	work  sync.WaitGroup
}

func newDevice(s *session, failed func(error)) *device {
	d := &device{session: s, failed: failed, ended: make(chan struct{}), tidy: debug.FreeOSMemory}
	d.wakeUp = make(chan struct{}, 1)
	d.asleep.Store(true)
	for i := range d.queues {
		d.queues[i] = newQueue(d)
	}
	d.queues[forgetQueue].patience = forgetPause
	d.work.Go(d.watch)
	return d
}

// Queues implements vhostuser.Device.
func (*device) Queues() int { return queueCount }

// Features implements vhostuser.Device.
func (*device) Features() uint64 { return featureVersion1 }

// Config implements vhostuser.Device. The VMM answers for the configuration itself.
func (*device) Config() []byte { return nil }

// Start implements vhostuser.Device.
func (d *device) Start(index int, ring *vhostuser.Ring, fresh bool) {
	d.queues[index].start(ring, fresh)
}

// Stop implements vhostuser.Device.
func (d *device) Stop(index int) { d.queues[index].stop() }

// Kicked implements vhostuser.Device: the leader of each queue waits itself.
func (*device) Kicked(int) {}

// Waits implements vhostuser.Waiter.
func (*device) Waits() {}

// Quiesce implements vhostuser.Device.
func (d *device) Quiesce(f func()) {
	d.memory.Lock()
	defer d.memory.Unlock()
	f()
}

// close ends the goroutines of a device whose queues are stopped, but those of
// requests that wait for other processes.
func (d *device) close() {
	close(d.ended)
	for _, q := range d.queues {
		q.close()
	}
	d.work.Wait()
}

// fail ends the device because of its guest.
func (d *device) fail(err error) { d.once.Do(func() { d.failed(err) }) }

// guard runs f, which uses guest memory.
func guard(f func() error) error { return guestmem.Guard(f) }
