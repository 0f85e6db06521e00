package device_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/virtio/guestmem"
)

// TestHostileGuest: a guest that breaks its queues loses its device, with an
// error that says how, and the VMM is answered as before.
func TestHostileGuest(t *testing.T) {
	// Each attack ends with the queue that was tampered with being used.
	attacks := map[string]struct {
		attack func(g *drivertest.Guest)
		want   string
	}{
		"transmit index jumps": {func(g *drivertest.Guest) { g.TX.SetAvail(1000); g.Kick(1) }, "chains in a queue of"},
		"receive index jumps":  {func(g *drivertest.Guest) { g.RX.SetAvail(40000) }, "chains in a queue of"},
		"head beyond the table": {func(g *drivertest.Guest) {
			g.TX.Offer(128)
			send(g)
		}, "descriptor 128 of 128"},
		"loop": {func(g *drivertest.Guest) {
			put(g, 0, drivertest.LowBase, 1, drivertest.Next, 1)
			put(g, 1, drivertest.LowBase, 1, drivertest.Next, 0)
			g.TX.Offer(0)
			send(g)
		}, "more than 128 descriptors"},
		"next beyond the table": {func(g *drivertest.Guest) {
			put(g, 0, drivertest.LowBase, 1, drivertest.Next, 500)
			g.TX.Offer(0)
			send(g)
		}, "descriptor 500 of 128"},
		"buffer outside memory": {func(g *drivertest.Guest) {
			put(g, 0, 0, 44, 0, 0)
			g.TX.Offer(0)
			send(g)
		}, "outside guest memory"},
		"buffer beyond the end of memory": {func(g *drivertest.Guest) {
			put(g, 0, drivertest.LowBase, 0xffffffff, 0, 0)
			g.TX.Offer(0)
			send(g)
		}, "outside guest memory"},
		"buffer wraps around": {func(g *drivertest.Guest) {
			put(g, 0, ^uint64(0)-3, 44, 0, 0)
			g.TX.Offer(0)
			send(g)
		}, "outside guest memory"},
		"indirect table that is huge": {func(g *drivertest.Guest) {
			put(g, 0, drivertest.LowBase, 0xfffffff0, drivertest.Indirect, 0)
			g.TX.Offer(0)
			send(g)
		}, "indirect table"},
		"indirect table in another": {func(g *drivertest.Guest) {
			drivertest.PutDescriptor(g.Mem.At(drivertest.LowBase, 16), 0, drivertest.LowBase, 16, drivertest.Indirect, 0)
			put(g, 0, drivertest.LowBase, 16, drivertest.Indirect, 0)
			g.TX.Offer(0)
			send(g)
		}, "indirect table where none is allowed"},
		"packet shorter than its header": {func(g *drivertest.Guest) {
			put(g, 0, drivertest.LowBase, 43, 0, 0)
			g.TX.Offer(0)
			send(g)
		}, "shorter than its header"},
		"packet with more data than there is": {func(g *drivertest.Guest) {
			header := g.Mem.At(drivertest.LowBase, 44)
			binary.LittleEndian.PutUint32(header[24:], 100)
			put(g, 0, drivertest.LowBase, 143, 0, 0)
			g.TX.Offer(0)
			send(g)
		}, "claims 100 bytes"},
		"packet with too much data": {func(g *drivertest.Guest) {
			header := g.Mem.At(drivertest.LowBase, 44)
			binary.LittleEndian.PutUint32(header[24:], 1<<20)
			put(g, 0, drivertest.LowBase, 2<<20, 0, 0)
			g.TX.Offer(0)
			send(g)
		}, "claims 1048576 bytes"},
		"packet to be written": {func(g *drivertest.Guest) {
			put(g, 0, drivertest.LowBase, 44, drivertest.Write, 0)
			g.TX.Offer(0)
			send(g)
		}, "packet is writable"},
		"receive buffers without room": {func(g *drivertest.Guest) {
			table := g.Mem.At(g.RX.Desc, 16)
			for i := range g.RX.Size {
				drivertest.PutDescriptor(table[:16:16], 0, drivertest.LowBase, 43, drivertest.Write, 0)
				table = g.Mem.At(g.RX.Desc+16*uint64(i), 16)
			}
			drivertest.PutDescriptor(table, 0, drivertest.LowBase, 43, drivertest.Write, 0)
		}, "no room for a packet's header"},
		"receive buffers that are to be read": {func(g *drivertest.Guest) {
			for i := range uint64(g.RX.Size) {
				drivertest.PutDescriptor(g.Mem.At(g.RX.Desc+16*i, 16), 0, drivertest.LowBase, 4096, 0, 0)
			}
		}, "not writable"},
	}
	for name, test := range attacks {
		t.Run(name, func(t *testing.T) {
			d, g := setup(t, everyFeature)
			l, err := d.Listen(9)
			if err != nil {
				t.Fatal(err)
			}
			test.attack(g)
			// Those who wait learn of it; the dial makes use of the receive queue.
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, err := d.Dial(ctx, 1); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("dial: %v, want an error with %q", err, test.want)
			}
			if _, err := l.Accept(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("accept: %v", err)
			}
			if err := d.Err(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("device: %v", err)
			}
			g.Pause()
			g.Resume()
		})
	}
}

// TestMemoryVanishes: a memory file that is cut short costs its own VM alone.
func TestMemoryVanishes(t *testing.T) {
	d, g := setup(t, everyFeature)
	// Not during an access: the race detector makes those in C, where a fault is
	// the end of the process.
	d.Quiesce(func() {
		if err := g.Mem.File.Truncate(0); err != nil {
			t.Error(err)
		}
	})
	g.Kick(1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := d.Dial(ctx, 1); !errors.Is(err, guestmem.ErrFault) || !errors.Is(d.Err(), guestmem.ErrFault) {
		t.Errorf("dial: %v; device: %v", err, d.Err())
	}
}

func put(g *drivertest.Guest, index uint16, addr uint64, size uint32, flags, next uint16) {
	drivertest.PutDescriptor(g.Mem.At(g.TX.Desc, 16*uint64(g.TX.Size)), index, addr, size, flags, next)
}

func send(g *drivertest.Guest) {
	g.TX.Publish()
	g.Kick(1)
}

// TestRequestFlood: a guest that asks for connections without end, and takes no
// answers, costs nobody but itself.
func TestRequestFlood(t *testing.T) {
	d, g := setup(t, everyFeature)
	if _, err := d.Listen(9); err != nil {
		t.Fatal(err)
	}
	const flood = 50_000
	for port := range uint32(flood) {
		request := packet(drivertest.Request, 9+port%2, "")
		request.SrcPort = port
		if !g.SendPacket(request) {
			t.Fatal("device has stopped")
		}
	}
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	// The guest takes the answers after all. 1024 connections were accepted, the
	// refusals are limited.
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	_, err := d.Dial(t.Context(), drivertest.EchoPort)
	if err == nil || !strings.Contains(err.Error(), "too many vsock connections") {
		t.Errorf("dial with every connection in use: %v", err)
	}
}

// TestNoReader: what nobody reads stays within the windows, and is delivered to
// those who read late.
func TestNoReader(t *testing.T) {
	d, g := setup(t, everyFeature)
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	lazy, busy := dial(t, d, drivertest.EchoPort), dial(t, d, drivertest.EchoPort)
	_ = lazy.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := lazy.Write(make([]byte, 4<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n > 1<<20 {
		t.Errorf("write %d bytes that nobody reads, %v", n, err)
	}
	if err := echo(busy, 4<<20); err != nil {
		t.Error(err)
	}
	if err := lazy.CloseWrite(); err != nil {
		t.Error(err)
	}
	if m, err := io.Copy(io.Discard, lazy); int(m) != n || err != nil {
		t.Errorf("%d of %d bytes came back, %v", m, n, err)
	}
}
