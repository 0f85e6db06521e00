package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"kata-runtime/hypervisor/virtio/vhostuser"
)

// The device's queues. The third one of a vsock device, for events, stays with
// the VMM.
const (
	sendQueue    = 0
	receiveQueue = 1
	queues       = 2
)

const featureVersion1 = uint64(1) << 32 // VIRTIO_F_VERSION_1

// Receive windows, in bytes.
const (
	// firstWindow is what a connection is granted at first, maxWindow what it
	// can grow to while its reader keeps up with a guest that waits for credit.
	firstWindow = 64 << 10
	maxWindow   = 1 << 20
	// connOverhead is what a connection can hold besides its window: the chunk
	// that is being read and the one that is being filled.
	connOverhead = 2 * chunkSize
	// budget bounds windows and overheads of all connections of a device, and
	// so also their number: 1024.
	budget = 128 << 20
)

// backlog is how many connections wait to be accepted at a listener, at most.
const backlog = 1024

// firstDialPort is the lowest port that Dial uses as its own. Linux, too, keeps
// those below for the privileged.
const firstDialPort = 1024

var _ vhostuser.Device = (*Device)(nil)

// Device is the vsock device of one guest. It is safe for concurrent use.
type Device struct {
	cid uint32
	log *slog.Logger

	sender   sender
	receiver receiver
	chunks   chunkPool
	large    chan []byte   // nil ones have not been made yet
	left     atomic.Int64  // of budget
	running  [queues]bool  // used by Start and Stop alone
	ended    chan struct{} // closed when the device has ended

	mu        sync.Mutex // guards the fields below
	conns     map[key]*Conn
	listeners map[uint32]*Listener
	nextPort  uint32
	err       error // why the device has ended
}

// key identifies a connection of the guest.
type key struct {
	local, remote uint32 // ports: the host's, the guest's
}

// New returns a device for a guest that is to have the given CID, 3 or higher.
func New(cid uint32, log *slog.Logger) *Device {
	d := &Device{
		cid:       cid,
		log:       log,
		conns:     make(map[key]*Conn),
		listeners: make(map[uint32]*Listener),
		nextPort:  firstDialPort,
		ended:     make(chan struct{}),
	}
	d.left.Store(budget)
	d.large = make(chan []byte, largePieces)
	for range largePieces {
		d.large <- nil
	}
	return d
}

// Queues implements vhostuser.Device.
func (d *Device) Queues() int { return queues }

// Features implements vhostuser.Device. That no feature bit of vsock is offered
// means streams only.
func (d *Device) Features() uint64 { return featureVersion1 }

// Config implements vhostuser.Device: the guest's CID.
func (d *Device) Config() []byte { return binary.LittleEndian.AppendUint64(nil, uint64(d.cid)) }

// Start implements vhostuser.Device.
func (d *Device) Start(index int, ring *vhostuser.Ring, fresh bool) {
	// Both queues start afresh, but what was sent on the first must not be reset
	// by the second.
	if fresh && d.running == [queues]bool{} {
		d.reset()
	}
	d.running[index] = true
	if d.Err() != nil {
		return
	}
	switch index {
	case sendQueue:
		d.sender.attach(ring)
	case receiveQueue:
		d.receiver.attach(ring)
	}
}

// Stop implements vhostuser.Device.
func (d *Device) Stop(index int) {
	d.running[index] = false
	switch index {
	case sendQueue:
		d.sender.attach(nil)
	case receiveQueue:
		d.receiver.attach(nil)
	}
}

// Kicked implements vhostuser.Device.
func (d *Device) Kicked(index int) {
	switch index {
	case sendQueue:
		d.flush()
	case receiveQueue:
		d.receive()
	}
}

// Quiesce implements vhostuser.Device.
func (d *Device) Quiesce(f func()) {
	d.receiver.mu.Lock()
	defer d.receiver.mu.Unlock()
	d.sender.mu.Lock()
	defer d.sender.mu.Unlock()
	f()
}

// Err returns why the device has ended, nil while it has not.
func (d *Device) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Ended is closed when the device has ended, and everything of it.
func (d *Device) Ended() <-chan struct{} { return d.ended }

// Fail ends the device: its queues are not touched any more, its listeners
// are closed because of err, and its connections return it, after what they have
// received. Only the first call counts; it reports whether it was this one.
func (d *Device) Fail(err error) bool {
	d.mu.Lock()
	if d.err != nil {
		d.mu.Unlock()
		return false
	}
	d.err = err
	conns, listeners := d.conns, d.listeners
	d.conns, d.listeners = nil, nil
	d.mu.Unlock()

	d.sender.attach(nil)
	d.receiver.attach(nil)
	for _, c := range conns {
		d.sender.mu.Lock()
		d.sender.detach(c, err)
		d.sender.mu.Unlock()
		c.endReceive(err)
	}
	// To a listener, whatever ends its device closes it.
	if !errors.Is(err, net.ErrClosed) {
		err = fmt.Errorf("%w: %w", net.ErrClosed, err)
	}
	for _, l := range listeners {
		l.end(err)
	}
	close(d.ended)
	return true
}

// broken ends the device because of what its guest did.
func (d *Device) broken(err error) {
	err = fmt.Errorf("vsock device: %w", err)
	if d.Fail(err) {
		d.log.LogAttrs(context.Background(), slog.LevelError, "vsock device ended: its guest broke the protocol", slog.Any("error", err))
	}
}

// flush sends what can be sent. It is not for the receiver, which would have to
// let go of its queue should the sender's turn out broken.
func (d *Device) flush() { d.send(func(*sender) {}) }

// send lets change alter what the sender has to do, then flushes.
func (d *Device) send(change func(*sender)) {
	s := &d.sender
	s.mu.Lock()
	change(s)
	more, err := s.flush(d.cid)
	s.mu.Unlock()
	for more && err == nil {
		s.mu.Lock()
		more, err = s.flush(d.cid)
		s.mu.Unlock()
	}
	if err != nil {
		d.broken(fmt.Errorf("receive queue: %w", err))
	}
}

// reset ends every connection that the guest knows of: another driver has taken
// over.
func (d *Device) reset() {
	d.mu.Lock()
	conns := make([]*Conn, 0, len(d.conns))
	for _, c := range d.conns {
		conns = append(conns, c)
	}
	d.mu.Unlock()
	d.sender.mu.Lock()
	d.sender.replies.clear()
	known := conns[:0]
	for _, c := range conns {
		if c.known {
			known = append(known, c)
		}
	}
	d.sender.mu.Unlock()
	for _, c := range known {
		d.remove(c, fmt.Errorf("guest restarted its vsock device: %w", syscall.ECONNRESET), nil)
	}
}

// take takes n bytes out of the budget.
func (d *Device) take(n int64) bool {
	if d.left.Add(-n) >= 0 {
		return true
	}
	d.left.Add(n)
	return false
}

func (d *Device) find(k key) *Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conns[k]
}

// remove ends a connection with err, and tells the guest by last, with the next
// flush, unless that is nil. A connection that was removed before stays as it
// is.
func (d *Device) remove(c *Conn, err error, last *reply) {
	d.mu.Lock()
	if d.conns[c.key] != c {
		d.mu.Unlock()
		return
	}
	delete(d.conns, c.key)
	d.mu.Unlock()
	d.sender.mu.Lock()
	if last != nil && c.known {
		if c.todo&todoResponse != 0 {
			// The guest still waits for an answer to its request.
			last = &reply{op: opReset}
		}
		d.sender.reply(c.complete(*last))
	}
	d.sender.detach(c, err)
	d.sender.mu.Unlock()
	c.endReceive(err)
}

// Dial connects to a port of the guest. It waits for as long as ctx allows
// until the guest runs and has a vsock driver; where nobody listens, the error
// wraps syscall.ECONNREFUSED.
func (d *Device) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.DialConn(ctx, port)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// DialConn is Dial with a result of the dynamic type.
func (d *Device) DialConn(ctx context.Context, port uint32) (*Conn, error) {
	c, err := d.newDialled(port)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: d.address(port), Err: err}
	}
	d.send(func(s *sender) { s.do(c, todoRequest) })
	select {
	case <-c.settled:
		err = c.dialError()
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		d.remove(c, err, &reply{op: opReset})
		d.flush()
		_ = c.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	}
	return c, nil
}

func (d *Device) newDialled(port uint32) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	if !d.take(firstWindow + connOverhead) {
		return nil, fmt.Errorf("too many vsock connections: %w", syscall.ENOBUFS)
	}
	k := key{local: d.nextPort, remote: port}
	for d.conns[k] != nil || d.listeners[k.local] != nil {
		k.local = portAfter(k.local)
	}
	d.nextPort = portAfter(k.local)
	c := newConn(d, k)
	d.conns[k] = c
	return c, nil
}

// portAfter is the next port for Dial; the highest number means "any port".
func portAfter(port uint32) uint32 {
	if port >= 1<<32-2 {
		return firstDialPort
	}
	return port + 1
}

// Listen takes connections of the guest to a port of the host. The port must be
// free in this device; those of other devices do not matter.
func (d *Device) Listen(port uint32) (*Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.err
	if err == nil && d.listeners[port] != nil {
		err = syscall.EADDRINUSE
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: hostAddress(port), Err: err}
	}
	l := newListener(d, port)
	d.listeners[port] = l
	return l, nil
}

// Close ends the device. Its connections and listeners return net.ErrClosed.
// It is idempotent.
func (d *Device) Close() error {
	d.Fail(net.ErrClosed)
	return nil
}
