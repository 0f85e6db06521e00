package drivertest

import (
	"encoding/binary"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The requests that a Guest uses.
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

// Guest is a VM with a vsock device: its VMM's messages, its driver's queues
// and its packets. Recv belongs to one goroutine; Send may be used by several.
type Guest struct {
	*FrontEnd
	// CID is the guest's own.
	CID    uint64
	Mem    *Memory
	RX, TX *Queue

	t        testing.TB
	features uint64
	lines    [2]line
	base     [2]uint32
	rxData   map[uint16]uint64

	sending sync.Mutex
	txData  map[uint16]uint64
	txFree  []uint64
}

// line is a queue's pair of eventfds.
type line struct{ kick, call *os.File }

const (
	rxSize   = 4096
	txSize   = 44 + 64<<10
	txCount  = 64
	queueLen = 128
)

// NewGuest introduces a guest with the given features of its queues to the
// device at the other end of file, and starts it.
func NewGuest(t testing.TB, file *os.File, features uint64) *Guest {
	t.Helper()
	g := &Guest{FrontEnd: NewFrontEnd(t, file), CID: 3, t: t, Mem: NewMemory(t, 8<<20), features: features | FeatureVersion1 | FeatureProtocol}
	g.Send(getFeatures, false, nil)
	if offered := binary.LittleEndian.Uint64(g.Reply(getFeatures)); offered&g.features != g.features {
		t.Fatalf("device offers features %#x, want %#x", offered, g.features)
	}
	g.Send(getProtocolFeatures, false, nil)
	g.Send(setProtocolFeatures, false, g.Reply(getProtocolFeatures))
	g.Send(setOwner, false, nil)
	g.Restart()
	return g
}

// Restart starts the device with fresh queues, as a booting guest does.
func (g *Guest) Restart() {
	g.t.Helper()
	g.boot()
	g.Resume()
}

// boot lays out empty queues.
func (g *Guest) boot() {
	g.Mem.next = HighBase
	g.RX, g.TX = NewQueue(g.Mem, queueLen, g.features), NewQueue(g.Mem, queueLen, g.features)
	g.rxData, g.txData, g.txFree = make(map[uint16]uint64), make(map[uint16]uint64), nil
	for range txCount {
		g.txFree = append(g.txFree, g.Mem.Alloc(txSize))
	}
	g.base = [2]uint32{}
	for g.RX.Room(2) {
		g.addRX(g.Mem.Alloc(64 + rxSize))
	}
	g.RX.Publish() // nobody to notify yet
}

// Resume starts the device where it was stopped, in QEMU's order.
func (g *Guest) Resume() {
	g.t.Helper()
	g.Send(setFeatures, false, Put(g.features))
	fd := int(g.Mem.File.Fd())
	g.Ack(setMemTable, MemTable(g.Mem.Regions[:]...), fd, fd)
	for i, q := range []*Queue{g.RX, g.TX} {
		index := uint32(i)
		g.lines[i] = line{eventFD(g.t), eventFD(g.t)}
		g.Send(setVringNum, false, Put(index, uint32(q.Size)))
		g.Send(setVringBase, false, Put(index, g.base[i]))
		g.Send(setVringAddr, false, Put(index, uint32(0), g.Mem.User(q.Desc), g.Mem.User(q.Used), g.Mem.User(q.Avail), uint64(0)))
		g.sendLine(setVringKick, i, g.lines[i].kick)
		g.sendLine(setVringCall, i, g.lines[i].call)
	}
	g.Ack(setVringEnable, Put(uint32(0), uint32(1)))
	g.Ack(setVringEnable, Put(uint32(1), uint32(1)))
}

// Pause stops the device, as a VMM does when the VM is paused or reset.
func (g *Guest) Pause() {
	g.t.Helper()
	for i := range g.lines {
		g.Send(setVringEnable, false, Put(uint32(i), uint32(0)))
	}
	for i := range g.lines {
		g.Send(getVringBase, false, Put(uint32(i), uint32(0)))
		g.base[i] = binary.LittleEndian.Uint32(g.Reply(getVringBase)[4:])
	}
}

// AddMemory plugs in one more region, and Remove takes it out.
func (g *Guest) AddMemory(r Region) {
	g.t.Helper()
	g.Ack(addMemReg, append(Put(uint64(0)), Put(r.Guest, r.Size, r.User, r.Offset)...), int(g.Mem.File.Fd()))
}

// RemoveMemory takes a region out again.
func (g *Guest) RemoveMemory(r Region) {
	g.t.Helper()
	g.Ack(remMemReg, append(Put(uint64(0)), Put(r.Guest, r.Size, r.User, r.Offset)...))
}

func (g *Guest) sendLine(request uint32, index int, file *os.File) {
	g.t.Helper()
	raw, err := file.SyscallConn()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { g.Send(request, false, Put(uint64(index)), int(fd)) }); err != nil {
		g.t.Fatal(err)
	}
}

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

// Kick notifies the device of a queue.
func (g *Guest) Kick(index int) {
	if _, err := g.lines[index].kick.Write(binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
		g.t.Errorf("kick: %v", err)
	}
}

func (g *Guest) waitCall(index int) error {
	var counter [8]byte
	_, err := g.lines[index].call.Read(counter[:])
	return err
}

// EndRecv makes a Recv that waits, or will, return false.
func (g *Guest) EndRecv() { _ = g.lines[0].call.Close() }

func (g *Guest) addRX(addr uint64) {
	head := g.RX.Add(Buffer{addr, 44, true}, Buffer{addr + 64, rxSize, true})
	g.rxData[head] = addr
}

// Recv takes the next packet from the device and gives its buffer back.
func (g *Guest) Recv() (Packet, bool) {
	for {
		head, written, ok := g.RX.Take(2)
		if !ok {
			if g.RX.WantCall() {
				continue
			}
			if g.waitCall(0) != nil {
				return Packet{}, false
			}
			continue
		}
		addr := g.rxData[head]
		delete(g.rxData, head)
		p := decode(g.Mem.At(addr, 44))
		p.Data = append([]byte(nil), g.Mem.At(addr+64, uint64(p.Len))...)
		if written != 44+p.Len {
			g.t.Errorf("device says that it wrote %d bytes of a packet with %d of data", written, p.Len)
		}
		g.addRX(addr)
		if g.RX.Publish() {
			g.Kick(0)
		}
		return p, true
	}
}

// SendPacket sends a packet and returns false if the device has stopped.
func (g *Guest) SendPacket(p Packet) bool {
	g.sending.Lock()
	defer g.sending.Unlock()
	addr, ok := g.txBuffer()
	if !ok {
		return false
	}
	p.Len = uint32(len(p.Data))
	b := g.Mem.At(addr, txSize)
	p.encode(b)
	copy(b[44:], p.Data)
	buffers := []Buffer{{Addr: addr, Size: 44}}
	if len(p.Data) > 0 {
		buffers = append(buffers, Buffer{Addr: addr + 44, Size: uint32(len(p.Data))})
	} else {
		buffers = append(buffers, Buffer{Addr: addr + 44, Size: 0})
	}
	g.txData[g.TX.Add(buffers...)] = addr
	if g.TX.Publish() {
		g.Kick(1)
	}
	return true
}

// txBuffer returns a buffer to send from, when there is one.
func (g *Guest) txBuffer() (uint64, bool) {
	for {
		for {
			head, _, ok := g.TX.Take(2)
			if !ok {
				break
			}
			g.txFree = append(g.txFree, g.txData[head])
			delete(g.txData, head)
		}
		if n := len(g.txFree); n > 0 && g.TX.Room(2) {
			addr := g.txFree[n-1]
			g.txFree = g.txFree[:n-1]
			return addr, true
		}
		if g.TX.WantCall() {
			continue
		}
		if g.waitCall(1) != nil {
			return 0, false
		}
	}
}
