package vhostuser_test

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/virtio/vhostuser"
)

// device notes what it is asked.
type device struct {
	events chan string
}

func (d *device) note(event string) { d.events <- event }

func (d *device) Queues() int      { return 2 }
func (d *device) Features() uint64 { return 1 << 32 }
func (d *device) Config() []byte   { return []byte{3, 0, 0, 0, 0, 0, 0, 0} }

func (d *device) Start(index int, _ *vhostuser.Ring, fresh bool) {
	event := "start " + string(rune('0'+index))
	if fresh {
		event += " fresh"
	}
	d.note(event)
}

func (d *device) Stop(index int)   { d.note("stop " + string(rune('0'+index))) }
func (d *device) Kicked(index int) { d.note("kick " + string(rune('0'+index))) }
func (d *device) Quiesce(f func()) { f() }

// session is a server with a device that only notes, and a front end.
type session struct {
	*drivertest.FrontEnd
	t      *testing.T
	device *device
	ended  chan error
}

func newSession(t *testing.T) *session {
	t.Helper()
	conn, file := drivertest.SocketPair(t)
	s := &session{
		FrontEnd: drivertest.NewFrontEnd(t, file), t: t,
		device: &device{events: make(chan string, 1000)}, ended: make(chan error, 1),
	}
	_ = file.Close()
	server := vhostuser.NewServer(conn, s.device, slog.New(slog.DiscardHandler))
	go func() { s.ended <- server.Serve(nil) }()
	t.Cleanup(func() {
		_ = server.Close()
		s.ended <- <-s.ended
	})
	return s
}

// expect checks what the device was asked next.
func (s *session) expect(events ...string) {
	s.t.Helper()
	for _, want := range events {
		if got := <-s.device.events; got != want {
			s.t.Fatalf("device is asked to %q, want %q", got, want)
		}
	}
}

// fails checks that the session ends with an error.
func (s *session) fails(want string) {
	s.t.Helper()
	err := <-s.ended
	s.ended <- err
	if err == nil || !strings.Contains(err.Error(), want) {
		s.t.Errorf("session ended with %v, want an error with %q", err, want)
	}
}

func eventFD(t *testing.T) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func memoryFile(t *testing.T) int {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// negotiate does what a VMM does first.
func (s *session) negotiate() {
	s.t.Helper()
	s.Send(1, false, nil)
	features := binary.LittleEndian.Uint64(s.Reply(1))
	if want := uint64(1<<32 | 1<<30 | 1<<29 | 1<<28); features != want {
		s.t.Errorf("features %#x, want %#x", features, want)
	}
	s.Send(15, false, nil)
	protocol := s.Reply(15)
	if want := uint64(1<<0 | 1<<3 | 1<<9 | 1<<15); binary.LittleEndian.Uint64(protocol) != want {
		s.t.Errorf("protocol features %#x, want %#x", protocol, want)
	}
	s.Send(16, false, protocol)
	s.Send(3, false, nil)
	s.Ack(2, drivertest.Put(features))
}

// queue sets up a queue in memory, all but its kick.
func (s *session) queue(mem *drivertest.Memory, index, base uint32) *drivertest.Queue {
	s.t.Helper()
	q := drivertest.NewQueue(mem, 8, 0)
	s.Ack(8, drivertest.Put(index, uint32(8)))
	s.Ack(10, drivertest.Put(index, base))
	s.Ack(9, drivertest.Put(index, uint32(0), mem.User(q.Desc), mem.User(q.Used), mem.User(q.Avail), uint64(0)))
	return q
}

func (s *session) memory() *drivertest.Memory {
	s.t.Helper()
	mem := drivertest.NewMemory(s.t, 1<<20)
	fd := int(mem.File.Fd())
	s.Ack(5, drivertest.MemTable(mem.Regions[:]...), fd, fd)
	return mem
}

func TestLife(t *testing.T) {
	s := newSession(t)
	s.negotiate()
	s.Send(17, false, nil)
	if n := binary.LittleEndian.Uint64(s.Reply(17)); n != 2 {
		t.Errorf("%d queues", n)
	}
	s.Send(24, false, append(drivertest.Put(uint32(0), uint32(8), uint32(0)), make([]byte, 8)...))
	if got := s.Reply(24); len(got) != 20 || got[12] != 3 {
		t.Errorf("configuration %v", got)
	}
	s.Send(24, false, append(drivertest.Put(uint32(4), uint32(8), uint32(0)), make([]byte, 8)...))
	if got := s.Reply(24); len(got) != 12 {
		t.Errorf("configuration beyond the end: %v", got)
	}
	mem := s.memory()
	s.queue(mem, 1, 0)
	kick := eventFD(t)
	s.Ack(12, drivertest.Put(uint64(1)), kick)
	s.Ack(13, drivertest.Put(uint64(1)), eventFD(t))
	s.Ack(13, drivertest.Put(uint64(1|1<<8)))
	s.Ack(14, drivertest.Put(uint64(1)), eventFD(t))
	s.Ack(18, drivertest.Put(uint32(1), uint32(1)))
	s.expect("start 1", "kick 1")
	if _, err := unix.Write(kick, drivertest.Put(uint64(1))); err != nil {
		t.Fatal(err)
	}
	s.expect("kick 1")
	s.Ack(18, drivertest.Put(uint32(1), uint32(0)))
	s.expect("stop 1")
	s.Ack(18, drivertest.Put(uint32(1), uint32(1)))
	s.expect("start 1", "kick 1")
	s.Send(11, false, drivertest.Put(uint32(1), uint32(0)))
	if got := s.Reply(11); binary.LittleEndian.Uint64(got) != 1 {
		t.Errorf("base %v", got)
	}
	s.expect("stop 1")
	// Another driver begins elsewhere.
	s.queue(mem, 1, 5)
	s.Ack(12, drivertest.Put(uint64(1)), eventFD(t))
	s.expect("start 1 fresh", "kick 1")
	_ = s.Conn.Close()
	s.expect("stop 1")
	if err := <-s.ended; !errors.Is(err, io.EOF) {
		t.Errorf("session ended with %v", err)
	}
	s.ended <- nil
}

func TestMemorySlots(t *testing.T) {
	s := newSession(t)
	s.negotiate()
	s.Send(36, false, nil)
	if n := binary.LittleEndian.Uint64(s.Reply(36)); n != 32 {
		t.Errorf("%d memory slots", n)
	}
	mem := drivertest.NewMemory(t, 1<<20)
	region := func(r drivertest.Region) []byte {
		return drivertest.Put(uint64(0), r.Guest, r.Size, r.User, r.Offset)
	}
	for _, r := range mem.Regions {
		s.Ack(37, region(r), int(mem.File.Fd()))
	}
	s.queue(mem, 0, 0)
	s.Ack(18, drivertest.Put(uint32(0), uint32(1)))
	s.Ack(12, drivertest.Put(uint64(0)), eventFD(t))
	s.expect("start 0", "kick 0")
	s.Ack(38, region(mem.Regions[0]), int(mem.File.Fd()))
	// Without the memory that its ring is in, a queue stops, and so does all.
	s.Send(38, true, region(mem.Regions[1]))
	if failed := binary.LittleEndian.Uint64(s.Reply(38)); failed == 0 {
		t.Error("removing a ring's memory succeeded")
	}
	s.expect("stop 0")
	s.fails("outside guest memory")
}

// TestBadMessages: each ends the session with an error.
func TestBadMessages(t *testing.T) {
	one, eight := drivertest.Put(uint32(1)), drivertest.Put(uint64(1))
	for name, test := range map[string]struct {
		send func(s *session)
		want string
	}{
		"version":           {func(s *session) { s.write(drivertest.Put(uint32(1), uint32(2), uint32(0))) }, "version"},
		"reply":             {func(s *session) { s.write(drivertest.Put(uint32(1), uint32(5), uint32(0))) }, "is a reply"},
		"huge":              {func(s *session) { s.write(drivertest.Put(uint32(1), uint32(1), ^uint32(0))) }, "4294967295 bytes"},
		"cut off":           {func(s *session) { s.write(drivertest.Message(2, false, eight)[:15]); _ = s.Conn.CloseWrite() }, "unexpected EOF"},
		"cut off in header": {func(s *session) { s.write(drivertest.Message(2, false, eight)[:5]); _ = s.Conn.CloseWrite() }, "unexpected EOF"},
		"unknown":           {func(s *session) { s.Send(99, false, nil) }, "unknown request"},
		"log base":          {func(s *session) { s.Send(6, false, eight) }, "unknown request"},
		"short":             {func(s *session) { s.Send(2, false, one) }, "payload of 4 bytes"},
		"feature":           {func(s *session) { s.Send(2, false, drivertest.Put(uint64(1<<34))) }, "not offered"},
		"protocol feature":  {func(s *session) { s.Send(16, false, drivertest.Put(uint64(1<<5))) }, "not offered"},
		"write config":      {func(s *session) { s.Send(25, false, nil) }, "read-only"},
		"config size":       {func(s *session) { s.Send(24, false, drivertest.Put(uint32(0), uint32(8), uint32(0))) }, "for 8 bytes has 0"},
		"queue":             {func(s *session) { s.Send(8, false, drivertest.Put(uint32(2), uint32(8))) }, "queue 2 of 2"},
		"base":              {func(s *session) { s.Send(10, false, drivertest.Put(uint32(0), uint32(1<<16))) }, "base 65536"},
		"kick without file": {func(s *session) { s.Send(12, false, drivertest.Put(uint64(0))) }, "0 descriptors"},
		"polling":           {func(s *session) { s.Send(12, false, drivertest.Put(uint64(1<<8))) }, "polling"},
		"kick of a file":    {func(s *session) { s.Send(12, false, drivertest.Put(uint64(0)), memoryFile(s.t)) }, "want an eventfd"},
		"kick of a device": {func(s *session) {
			zero, err := os.Open("/dev/zero")
			if err != nil {
				s.t.Fatal(err)
			}
			s.t.Cleanup(func() { _ = zero.Close() })
			s.Send(12, false, drivertest.Put(uint64(0)), int(zero.Fd()))
		}, "want an eventfd"},
		"two kicks":          {func(s *session) { s.Send(12, false, drivertest.Put(uint64(0)), eventFD(s.t), eventFD(s.t)) }, "2 descriptors"},
		"table without file": {func(s *session) { s.Send(5, false, drivertest.MemTable(drivertest.Region{Size: 1})) }, "0 descriptors"},
		"table too long":     {func(s *session) { s.Send(5, false, drivertest.Put(uint32(1000), uint32(0))) }, "1000 regions"},
		"memory too short": {func(s *session) {
			s.Send(5, false, drivertest.MemTable(drivertest.Region{Size: 1 << 30}), eventFD(s.t))
		}, "memory file has"},
		"memory twice": {func(s *session) {
			mem := drivertest.NewMemory(s.t, 1<<20)
			fd := int(mem.File.Fd())
			s.Send(5, false, drivertest.MemTable(mem.Regions[0], mem.Regions[0]), fd, fd)
		}, "overlap"},
		"unknown memory": {func(s *session) {
			s.Send(38, false, drivertest.Put(uint64(0), uint64(1), uint64(1), uint64(1), uint64(1)))
		}, "no memory region"},
		"queue size": {func(s *session) {
			mem := s.memory()
			s.queue(mem, 0, 0)
			s.Ack(8, drivertest.Put(uint32(0), uint32(7)))
			s.Ack(12, drivertest.Put(uint64(0)), eventFD(s.t))
			s.Send(18, false, drivertest.Put(uint32(0), uint32(1)))
		}, "power of two"},
		"queue outside memory": {func(s *session) {
			mem := s.memory()
			s.queue(mem, 0, 0)
			s.Ack(8, drivertest.Put(uint32(0), uint32(1<<15)))
			s.Ack(12, drivertest.Put(uint64(0)), eventFD(s.t))
			s.Ack(9, drivertest.Put(uint32(0), uint32(0), mem.Regions[0].User+1<<20-16, uint64(0), uint64(0), uint64(0)))
			s.Send(18, false, drivertest.Put(uint32(0), uint32(1)))
		}, "outside guest memory"},
		"running queue": {func(s *session) {
			mem := s.memory()
			s.queue(mem, 0, 0)
			s.Ack(12, drivertest.Put(uint64(0)), eventFD(s.t))
			s.Ack(18, drivertest.Put(uint32(0), uint32(1)))
			s.Send(8, false, drivertest.Put(uint32(0), uint32(16)))
		}, "is running"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t)
			s.negotiate()
			test.send(s)
			s.fails(test.want)
		})
	}
}

func (s *session) write(b []byte) {
	s.t.Helper()
	if _, err := s.Conn.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestNoFileIsKept: whatever a front end sends, the server closes.
func TestNoFileIsKept(t *testing.T) {
	kick := eventFD(t)
	before := openFiles(t)
	mappings := strings.Count(maps(t), "guest")
	for range 3 {
		conn, file := drivertest.SocketPair(t)
		front, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		d := &device{events: make(chan string, 1000)}
		ended := make(chan error, 1)
		server := vhostuser.NewServer(conn, d, slog.New(slog.DiscardHandler))
		go func() { ended <- server.Serve(nil) }()
		fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Ftruncate(fd, 1<<20); err != nil {
			t.Fatal(err)
		}
		send := func(request uint32, payload []byte, fds ...int) {
			t.Helper()
			if _, _, err := front.(*net.UnixConn).WriteMsgUnix(drivertest.Message(request, false, payload), unix.UnixRights(fds...), nil); err != nil {
				t.Fatal(err)
			}
		}
		send(5, drivertest.MemTable(drivertest.Region{Guest: 1 << 20, Size: 1 << 20}), fd)
		for _, request := range []uint32{12, 13, 14} {
			send(request, drivertest.Put(uint64(1)), kick)
			send(request, drivertest.Put(uint64(1)), kick)
		}
		send(3, nil, fd, fd)                                      // none belongs there
		send(5, drivertest.MemTable(drivertest.Region{}), fd, fd) // and this is nonsense
		if err := <-ended; err == nil {
			t.Error("session ended without an error")
		}
		_, _ = front.Close(), unix.Close(fd)
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d files are open, %d were before", after, before)
	}
	if n := strings.Count(maps(t), "guest"); n != mappings {
		t.Errorf("%d mappings of guest memory are left", n-mappings)
	}
}

func maps(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// bare is a device without a configuration space.
type bare struct{ *device }

func (bare) Config() []byte { return nil }

// A configuration space is offered for a device that has one.
func TestNoConfigurationSpaceIsOffered(t *testing.T) {
	conn, file := drivertest.SocketPair(t)
	front := drivertest.NewFrontEnd(t, file)
	_ = file.Close()
	server := vhostuser.NewServer(conn, bare{&device{events: make(chan string, 10)}}, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(nil) }()
	front.Send(15, false, nil)
	if got, want := binary.LittleEndian.Uint64(front.Reply(15)), uint64(1<<0|1<<3|1<<15); got != want {
		t.Errorf("protocol features %#x, want %#x", got, want)
	}
	front.Send(16, false, binary.LittleEndian.AppendUint64(nil, 1<<9))
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "were not offered") {
		t.Errorf("the session ended with %v", err)
	}
	_ = server.Close()
}
