package fileserver

import (
	"encoding/binary"
	"log/slog"
	"os"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/internal/drivertest"
)

// The vhost-user requests of a VMM.
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	setMemTable         = 5
	setVringNum         = 8
	setVringAddr        = 9
	setVringBase        = 10
	getVringBase        = 11
	setVringKick        = 12
	setVringCall        = 13
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	setVringEnable      = 18
	addMemReg           = 37
	remMemReg           = 38
)

const (
	queueSize = 64
	// segment is the size of a reply's or a request's buffers beyond the first.
	segment  = 4096
	segments = 4
)

// guest is a VM with a file system device: its VMM's messages and its driver.
type guest struct {
	*drivertest.FrontEnd
	t        testing.TB
	mem      *drivertest.Memory
	features uint64
	queues   [queueCount]*drivertest.Queue
	lines    [queueCount]struct{ kick, call *os.File }
	base     [queueCount]uint32
	unique   uint64
	// inside are the requests under way by their heads.
	inside map[uint16]pending
	served chan error
	// kickFile makes the descriptors by which the device is told; nil: eventFD.
	kickFile func(testing.TB) *os.File
}

// pending is where a request's reply will be.
type pending struct {
	unique  uint64
	reply   []drivertest.Buffer
	buffers int
}

// reply is what came back for a request.
type reply struct {
	unique uint64
	status int32
	data   []byte
}

// newGuest starts a device that serves files and a guest of it.
func newGuest(t *testing.T, files fuse.RawFileSystem, features uint64) *guest {
	t.Helper()
	conn, theirs := drivertest.SocketPair(t)
	served := make(chan error, 1)
	session := newSession(files, fuse.MountOptions{})
	var done sync.WaitGroup
	done.Go(func() { served <- serve(conn, session, slog.New(slog.DiscardHandler)) })
	g := connect(t, theirs, features)
	_ = theirs.Close()
	g.served = served
	t.Cleanup(func() {
		_ = g.Conn.Close()
		done.Wait()
	})
	return g
}

// connect makes a guest of the device at the other end of a socket.
func connect(t testing.TB, socket *os.File, features uint64) *guest {
	t.Helper()
	g := &guest{
		t: t, mem: drivertest.NewMemory(t, 8<<20), features: features | drivertest.FeatureVersion1 | drivertest.FeatureProtocol,
		inside: make(map[uint16]pending),
	}
	g.FrontEnd = drivertest.NewFrontEnd(t, socket)
	g.Send(getFeatures, false, nil)
	if offered := binary.LittleEndian.Uint64(g.Reply(getFeatures)); offered&g.features != g.features {
		t.Fatalf("device offers features %#x, want %#x", offered, g.features)
	}
	g.Send(getProtocolFeatures, false, nil)
	g.Send(setProtocolFeatures, false, g.Reply(getProtocolFeatures))
	g.Send(setOwner, false, nil)
	g.boot()
	return g
}

// boot starts the device with fresh queues.
func (g *guest) boot() {
	g.t.Helper()
	for i := range g.queues {
		g.queues[i] = drivertest.NewQueue(g.mem, queueSize, g.features)
	}
	g.base = [queueCount]uint32{}
	clear(g.inside)
	g.resume()
}

func (g *guest) resume() {
	g.t.Helper()
	g.Send(setFeatures, false, drivertest.Put(g.features))
	fd := int(g.mem.File.Fd())
	g.Ack(setMemTable, drivertest.MemTable(g.mem.Regions[:]...), fd, fd)
	for i, q := range g.queues {
		index := uint32(i)
		g.lines[i].kick, g.lines[i].call = g.newKick(), eventFD(g.t)
		g.Send(setVringNum, false, drivertest.Put(index, uint32(q.Size)))
		g.Send(setVringBase, false, drivertest.Put(index, g.base[i]))
		g.Send(setVringAddr, false, drivertest.Put(index, uint32(0), g.mem.User(q.Desc), g.mem.User(q.Used), g.mem.User(q.Avail), uint64(0)))
		g.Send(setVringKick, false, drivertest.Put(uint64(index)), int(g.lines[i].kick.Fd()))
		g.Send(setVringCall, false, drivertest.Put(uint64(index)), int(g.lines[i].call.Fd()))
		g.Ack(setVringEnable, drivertest.Put(index, uint32(1)))
	}
}

func (g *guest) newKick() *os.File {
	if g.kickFile != nil {
		return g.kickFile(g.t)
	}
	return eventFD(g.t)
}

// pause stops the device, as a VMM does when the VM is paused.
func (g *guest) pause() {
	g.t.Helper()
	for i := range g.queues {
		g.Send(getVringBase, false, drivertest.Put(uint32(i), uint32(0)))
		g.base[i] = binary.LittleEndian.Uint32(g.Reply(getVringBase)[4:])
	}
}

// eventFD is a descriptor whose reads block.
func eventFD(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// encode is a request with its header.
func encode(opcode uint32, unique, node uint64, body []byte) []byte {
	b := drivertest.Put(uint32(inHeaderSize+len(body)), opcode, unique, node, uint32(0), uint32(0), uint32(1), uint32(0))
	return append(b, body...)
}

// send makes a request available, in two pieces and with room for a reply of so many
// bytes in as many as it takes, and returns its number.
func (g *guest) send(opcode uint32, node uint64, body []byte, room int) uint64 {
	g.t.Helper()
	g.unique += 2
	raw := encode(opcode, g.unique, node, body)
	var buffers, out []drivertest.Buffer
	for _, piece := range [][]byte{raw[:inHeaderSize], raw[inHeaderSize:]} {
		addr := g.mem.Alloc(uint64(max(len(piece), 1)))
		copy(g.mem.At(addr, uint64(len(piece))), piece)
		buffers = append(buffers, drivertest.Buffer{Addr: addr, Size: uint32(len(piece))})
	}
	for next := outHeaderSize; room > 0; next = segment {
		n := min(room, next)
		out = append(out, drivertest.Buffer{Addr: g.mem.Alloc(uint64(n)), Size: uint32(n), Write: true})
		room -= n
	}
	g.offer(pending{unique: g.unique, reply: out}, append(buffers, out...)...)
	return g.unique
}

// offer makes a chain available.
func (g *guest) offer(p pending, buffers ...drivertest.Buffer) {
	p.buffers = len(buffers)
	head := g.queues[1].Add(buffers...)
	g.inside[head] = p
	if g.queues[1].Publish() {
		g.kick()
	}
}

func (g *guest) kick() {
	if _, err := g.lines[1].kick.Write(binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
		g.t.Errorf("kick: %v", err)
	}
}

// receive returns the next reply.
func (g *guest) receive() reply {
	g.t.Helper()
	q := g.queues[1]
	for {
		head, ok := q.Peek()
		if !ok {
			if q.WantCall() {
				continue
			}
			var counter [8]byte
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(g.lines[1].call.Fd()), Events: unix.POLLIN}}, -1); err != nil && err != unix.EINTR {
				g.t.Fatal(err)
			}
			_, _ = unix.Read(int(g.lines[1].call.Fd()), counter[:])
			continue
		}
		p := g.inside[head]
		_, written, _ := q.Take(p.buffers)
		delete(g.inside, head)
		var all []byte
		for _, b := range p.reply {
			all = append(all, g.mem.At(b.Addr, uint64(b.Size))...)
		}
		if len(all) == 0 {
			return reply{unique: p.unique}
		}
		if int(written) < outHeaderSize || int(written) > len(all) || binary.LittleEndian.Uint32(all) != written {
			g.t.Fatalf("the device has written %d bytes of %d: %x", written, len(all), all[:min(len(all), 16)])
		}
		if got := binary.LittleEndian.Uint64(all[8:]); got != p.unique {
			g.t.Fatalf("reply to request %d in the buffers of %d", got, p.unique)
		}
		return reply{p.unique, int32(binary.LittleEndian.Uint32(all[4:])), all[outHeaderSize:written]}
	}
}

// want fails the test unless the next reply is this one.
func (g *guest) want(unique uint64, status unix.Errno) []byte {
	g.t.Helper()
	got := g.receive()
	if got.unique != unique || got.status != -int32(status) {
		g.t.Fatalf("reply to %d with status %d, want that to %d with %d", got.unique, got.status, unique, -int32(status))
	}
	return got.data
}

// broken waits until the device has ended and returns why.
func (g *guest) broken() error {
	g.t.Helper()
	return <-g.served
}
