package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"kata-runtime/hypervisor/virtio/guestmem"
	"kata-runtime/hypervisor/virtio/virtqueue"
)

// Device is what a Server serves to a VMM: a virtio device's back end. Its
// methods may be called from several goroutines at once, but Start and Stop
// only from that of Serve.
type Device interface {
	// Queues is the number of virtqueues, constant.
	Queues() int
	// Features are the device's own feature bits, VIRTIO_F_VERSION_1 included.
	Features() uint64
	// Config is the device's configuration space.
	Config() []byte
	// Start hands over a queue that runs from now on. A guest that set the
	// device up anew, rather than one that was paused, is told by fresh.
	Start(index int, ring *Ring, fresh bool)
	// Stop takes the queue back: when it returns, the device does not touch the
	// ring or its buffers any more. Stopping a stopped queue does nothing.
	Stop(index int)
	// Kicked says that the guest has made buffers available. It may be called
	// for a queue that has just been stopped.
	Kicked(index int)
	// Quiesce calls f while no ring and no guest memory is in use.
	Quiesce(f func())
}

// Waiter is a Device that waits for the guest's notifications by Ring.Wait, on
// goroutines of its own, rather than being told of them by Kicked. When its Stop
// has returned, none waits any more. A queue may have chains when it starts.
type Waiter interface {
	Device
	// Waits does nothing.
	Waits()
}

// Feature bits of virtio and vhost-user that are the transport's.
const (
	featureProtocol = uint64(1) << 30 // VHOST_USER_F_PROTOCOL_FEATURES

	transportFeatures = virtqueue.FeatureIndirect | virtqueue.FeatureEventIndex | featureProtocol
)

// Protocol features.
const (
	protocolQueues   = uint64(1) << 0
	protocolReplyAck = uint64(1) << 3
	protocolConfig   = uint64(1) << 9
	protocolMemSlots = uint64(1) << 15

	protocolFeatures = protocolQueues | protocolReplyAck | protocolConfig | protocolMemSlots
)

// memSlots is how many memory regions the VMM is told it may have, its boot
// memory included.
const memSlots = 32

// Server serves one Device to one VMM, over one connection.
type Server struct {
	conn   *net.UnixConn
	device Device
	log    *slog.Logger

	features uint64
	protocol uint64
	vrings   []*vring
	memory   *guestmem.Table
	maps     []*guestmem.Mapping
}

// NewServer returns a server that takes over conn.
func NewServer(conn *net.UnixConn, device Device, log *slog.Logger) *Server {
	s := &Server{conn: conn, device: device, log: log}
	_, waits := device.(Waiter)
	for i := range device.Queues() {
		s.vrings = append(s.vrings, &vring{index: i, callFD: noFD, waits: waits})
	}
	return s
}

// Serve answers the VMM until it closes the connection, which is io.EOF, or
// sends what makes no sense, or Close is called. When it returns, every queue
// is stopped, its goroutines have ended, and nothing of the guest's memory is
// mapped. first is called once, when the first message has come.
func (s *Server) Serve(first func()) error {
	err := s.serve(first)
	if cleanup := s.shutdown(); cleanup != nil {
		s.log.LogAttrs(context.Background(), slog.LevelWarn, "vhost-user: release guest memory", slog.Any("error", cleanup))
	}
	return err
}

// Close ends the connection, and so Serve. It is idempotent.
func (s *Server) Close() error {
	if err := s.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close vhost-user connection: %w", err)
	}
	return nil
}

func (s *Server) serve(first func()) error {
	for {
		m, err := receive(s.conn)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return io.EOF
			}
			return fmt.Errorf("receive vhost-user message: %w", err)
		}
		if first != nil {
			first()
			first = nil
		}
		err = s.answer(m)
		m.close()
		if err != nil {
			return err
		}
	}
}

// answer carries out a request and replies to it. A request that fails ends the
// session, after the VMM was told if it asked.
func (s *Server) answer(m *message) error {
	reply, err := s.handle(m)
	if err != nil {
		err = fmt.Errorf("vhost-user request %d: %w", m.request, err)
	}
	if reply == nil && m.flags&flagNeedReply != 0 && s.protocol&protocolReplyAck != 0 {
		var failed uint64
		if err != nil {
			failed = 1
		}
		reply = encodeU64(failed)
	}
	if reply == nil {
		return err
	}
	if _, sent := s.conn.Write(encode(m.request, reply)); sent != nil && err == nil {
		err = fmt.Errorf("reply to vhost-user request %d: %w", m.request, sent)
	}
	return err
}

// shutdown releases everything that the VMM had handed over.
func (s *Server) shutdown() error {
	for _, v := range s.vrings {
		s.stop(v)
		v.dropKick()
		closeFD(v.callFD)
		v.callFD = noFD
	}
	err := s.replaceMemory(nil)
	return errors.Join(err, s.Close())
}

// start runs the queue if it has all that it needs.
func (s *Server) start(v *vring) error {
	if !v.ready(s.memory) {
		return nil
	}
	cfg, err := v.queueConfig(s.memory, s.features)
	if err != nil {
		return err
	}
	var queue *virtqueue.Queue
	err = guestmem.Guard(func() (err error) {
		queue, err = virtqueue.New(s.memory, cfg)
		return err
	})
	if err != nil {
		return fmt.Errorf("queue %d: %w", v.index, err)
	}
	v.ring = &Ring{Queue: queue, callFD: v.callFD, bell: v.bell}
	// A paused VM continues where its queue was left. The counter of another
	// driver that happens to be there too makes a difference only to
	// connections that this driver resets itself.
	s.device.Start(v.index, v.ring, v.ran && v.base != v.left)
	v.watch(s.device)
	return nil
}

// enable lets a queue run, or suspends it where it is.
func (s *Server) enable(v *vring, on bool) error {
	if on == v.enabled {
		return nil
	}
	v.enabled = on
	switch {
	case v.ring == nil:
		return s.start(v)
	case on:
		s.device.Start(v.index, v.ring, false)
		s.device.Kicked(v.index)
	default:
		s.device.Stop(v.index)
	}
	return nil
}

// stop ends the queue and remembers where.
func (s *Server) stop(v *vring) {
	if v.ring == nil {
		return
	}
	s.device.Stop(v.index)
	v.left, v.base, v.ran = v.ring.Base(), v.ring.Base(), true
	v.ring = nil
	// Closing the kick descriptor ends the goroutine that waits on it.
	v.dropKick()
	v.waiter.Wait()
}

// setCall takes over fd as the way to call the guest about a queue.
func (s *Server) setCall(v *vring, fd int) {
	old := v.callFD
	v.callFD = fd
	if v.ring != nil {
		s.device.Quiesce(func() { v.ring.callFD = fd })
	}
	closeFD(old)
}
