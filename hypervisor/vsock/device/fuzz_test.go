package device

import (
	"encoding/binary"
	"log/slog"
	"testing"

	"kata-runtime/hypervisor/virtio/virtqueue"
)

// FuzzPackets feeds packets to a device that has a listener, an accepted and a
// dialled connection. Each step of the script is the packet's operation, flags,
// ports (of few), credit, and up to 255 bytes of data.
func FuzzPackets(f *testing.F) {
	step := func(op, flags, local, remote byte, alloc, fwd uint32, data string) []byte {
		b := []byte{op, flags, local, remote, byte(len(data))}
		b = binary.LittleEndian.AppendUint32(b, alloc)
		b = binary.LittleEndian.AppendUint32(b, fwd)
		return append(b, data...)
	}
	var life []byte
	for _, s := range [][]byte{
		step(opRequest, 0, 0, 2, 1000, 0, ""), step(opResponse, 0, 1, 1, 1000, 0, ""),
		step(opData, 0, 1, 1, 1000, 0, "data"), step(opCreditRequest, 0, 1, 1, 0, 0, ""),
		step(opCreditUpdate, 0, 1, 1, 1<<31, 1<<31, ""), step(opShutdown, shutSend, 1, 1, 0, 0, ""),
		step(opData, 0, 1, 1, 0, 0, "after the end"), step(opShutdown, shutBoth, 0, 2, 0, 0, ""),
		step(opReset, 0, 1, 1, 0, 0, ""), step(99, 255, 0, 1, 0, 0, "x"),
	} {
		life = append(life, s...)
		f.Add(append([]byte(nil), life...))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		d := New(3, slog.New(slog.DiscardHandler))
		l, err := d.Listen(9)
		if err != nil {
			t.Fatal(err)
		}
		dialled, err := d.newDialled(1)
		if err != nil {
			t.Fatal(err)
		}
		dialled.known = true
		ports := [][2]uint32{{9, 1}, {firstDialPort, 1}, {9, 2}, {77, 3}}
		for len(script) >= 13 {
			ends, size := ports[script[2]%4], min(int(script[4]), len(script)-13)
			h := header{
				srcCID: 3, dstCID: hostCID, srcPort: ports[script[3]%4][1], dstPort: ends[0], length: uint32(size),
				kind: typeStream, op: uint16(script[0]), flags: uint32(script[1]),
				bufAlloc: binary.LittleEndian.Uint32(script[5:]), fwdCnt: binary.LittleEndian.Uint32(script[9:]),
			}
			var raw [headerSize]byte
			h.encode(&raw)
			if err := d.takePacket(&virtqueue.Chain{Readable: [][]byte{raw[:20], raw[20:], script[13 : 13+size]}}); err != nil {
				t.Fatalf("packet %+v: %v", h, err)
			}
			script = script[13+size:]
		}
		checkBounds(t, d)
		_ = dialled.Close()
		_ = l.Close()
		_ = d.Close()
		if left := d.left.Load(); left != budget {
			t.Errorf("%d bytes of the budget are lost", budget-left)
		}
	})
}

// checkBounds checks what no guest may change.
func checkBounds(t *testing.T, d *Device) {
	t.Helper()
	if n := len(d.sender.replies.queue); n > maxReplies {
		t.Errorf("%d replies wait", n)
	}
	for _, c := range d.conns {
		if held := c.received - c.taken.Load(); held > c.window.Load() {
			t.Errorf("connection %v holds %d bytes in a window of %d", c.key, held, c.window.Load())
		}
		n := uint32(0)
		for b := c.data.head; b != nil; b = b.next {
			n += uint32(len(b.bytes()))
		}
		if n != c.received {
			t.Errorf("connection %v holds %d bytes of %d", c.key, n, c.received)
		}
	}
	for c := d.sender.active.head; c != nil; c = c.links.next {
		if c.detached {
			t.Errorf("connection %v is gone and still to send", c.key)
		}
	}
}
