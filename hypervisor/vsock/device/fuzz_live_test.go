package device_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"kata-runtime/hypervisor/internal/drivertest"
)

// hostSide reads, writes and closes connections as the owner of a device does, from
// several goroutines.
type hostSide struct {
	work  sync.WaitGroup
	mu    sync.Mutex
	conns []net.Conn
}

// use reads from a connection to its end, and writes to it meanwhile.
func (h *hostSide) use(conn net.Conn) {
	h.mu.Lock()
	h.conns = append(h.conns, conn)
	h.mu.Unlock()
	h.work.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	h.work.Go(func() {
		for range 8 {
			if _, err := conn.Write(make([]byte, 9000)); err != nil {
				return
			}
		}
		if c, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
	})
}

// close closes one of the connections.
func (h *hostSide) close(which int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) > 0 {
		_ = h.conns[which%len(h.conns)].Close()
	}
}

func (h *hostSide) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		_ = c.Close()
	}
}

// extra is memory that is plugged in and out: another place of the same file.
func extra(i byte) drivertest.Region {
	return drivertest.Region{Guest: 1<<40 + uint64(i)<<24, User: 1<<50 + uint64(i)<<24, Size: 1 << 16, Offset: uint64(i) << 12}
}

// FuzzLive runs a device with its rings, a guest that does anything (packets, memory
// that comes and goes while it is in use, pauses, descriptors at will) and a host that
// reads, writes, dials and closes at the same time. Each step is an operation and
// three arguments. Nothing may panic, race or hang.
func FuzzLive(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0, 5, 0, 200, 5, 0, 0, 0, 0, 5, 0, 10})
	f.Add([]byte{1, 0, 0, 0, 2, 1, 0, 0, 3, 1, 0, 44, 2, 1, 0, 0, 3, 1, 0, 44})
	f.Add([]byte{0, 1, 0, 0, 4, 0, 0, 0, 0, 5, 0, 255, 4, 0, 0, 0, 1, 0, 0, 0, 5, 1, 0, 0})
	f.Add([]byte{2, 1, 0, 0, 2, 2, 0, 0, 3, 1, 0, 100, 3, 2, 3, 44, 0, 1, 0, 0, 2, 2, 0, 0, 4, 0, 0, 0})
	f.Add([]byte("2000X\x01\x00\x00\x02\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, script []byte) {
		defer time.AfterFunc(20*time.Second, func() { panic("it hangs") }).Stop()
		d, g := setup(t, everyFeature)
		l, err := d.Listen(9)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		host := &hostSide{}
		host.work.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				host.use(conn)
			}
		})
		plugged := make(map[byte]bool)
		// A driver that has offered what it likes has lost count of its buffers.
		wild := false
		// No more than the guest has buffers for: a device that has ended gives none
		// back.
		for range 24 {
			if len(script) < 4 {
				break
			}
			op, a, b, c := script[0], script[1], script[2], script[3]
			script = script[4:]
			switch op % 6 {
			case 0:
				p := packet(uint16(a%9), 9+uint32(b>>7), string(make([]byte, c)))
				p.SrcPort, p.Flags, p.BufAlloc, p.FwdCnt = uint32(b&3), uint32(b>>2&3), uint32(c)<<(b&15), uint32(a>>4)<<(b&31)
				if p.SrcPort == 3 { // one that the host dialled, maybe
					p.SrcPort, p.DstPort = uint32(a&1), 1024+uint32(c&3)
				}
				if !wild {
					g.SendPacket(p)
				}
			case 1:
				host.work.Go(func() {
					if conn, err := d.Dial(ctx, uint32(a&1)); err == nil {
						host.use(conn)
					}
				})
			case 2:
				if a %= 4; plugged[a] {
					g.RemoveMemory(extra(a))
				} else {
					g.AddMemory(extra(a))
				}
				plugged[a] = !plugged[a]
			case 3:
				wild = true
				// The packet's header is whatever is there.
				put(g, uint16(b%4), extra(a%4).Guest+uint64(b)<<8, uint32(c)<<(b&7), uint16(b>>6), uint16(c%8))
				g.TX.Offer(uint16(b % 4))
				send(g)
			case 4:
				g.Pause()
				g.Resume()
				clear(plugged) // it begins with the memory table of before
			case 5:
				host.close(int(a))
			}
		}
		cancel()
		_ = l.Close()
		_ = d.Close()
		host.closeAll()
		host.work.Wait()
	})
}
