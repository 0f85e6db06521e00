package vhostuser

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/internal/drivertest"
)

// FuzzDecode decodes payloads of every kind: none may panic, and what is
// decoded must be within its bounds.
func FuzzDecode(f *testing.F) {
	f.Add(drivertest.Put(uint64(1)), 0)
	f.Add(drivertest.MemTable(drivertest.Region{Guest: 1, Size: 2, User: 3, Offset: 4}), 1)
	f.Add(drivertest.Put(uint32(1), uint32(0), uint64(1), uint64(2), uint64(3), uint64(4)), 0)
	f.Add(drivertest.Put(uint32(0), uint32(8), uint32(0), uint64(0)), 0)
	// Control messages with one descriptor, and with half of one.
	f.Add([]byte("\x14\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\xff"), 0)
	f.Add([]byte("\x12\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\xff\xff"), 0)
	f.Fuzz(func(t *testing.T, payload []byte, files int) {
		_, _ = decodeU64(payload)
		_, _ = decodeVringState(payload)
		_, _ = decodeVringAddr(payload)
		_, _ = decodeMemReg(payload)
		_, _ = parseRights(payload)
		if regions, err := decodeMemTable(payload, files); err == nil && (len(regions) != files || files > maxTableRegions) {
			t.Errorf("%d regions with %d files", len(regions), files)
		}
		if c, err := decodeConfig(payload); err == nil && int(c.size) != len(payload)-configHeader {
			t.Errorf("%d bytes of configuration in %d", c.size, len(payload))
		}
		var raw [headerSize]byte
		copy(raw[:], payload)
		if h, err := decodeHeader(raw); err == nil && h.size > maxPayload {
			t.Errorf("payload of %d bytes was taken", h.size)
		}
	})
}

// passive is a device that does nothing.
type passive struct{}

func (passive) Queues() int            { return 2 }
func (passive) Features() uint64       { return 1 << 32 }
func (passive) Config() []byte         { return make([]byte, 8) }
func (passive) Start(int, *Ring, bool) {}
func (passive) Stop(int)               {}
func (passive) Kicked(int)             {}
func (passive) Quiesce(f func())       { f() }

// FuzzSession plays a front end that sends anything: each step of the script is
// a request, the number of descriptors with it, the length of its payload, and
// the payload.
func FuzzSession(f *testing.F) {
	step := func(request, files byte, payload []byte) []byte {
		return append([]byte{request, files, byte(len(payload))}, payload...)
	}
	region := drivertest.Region{Guest: 1 << 20, Size: 1 << 16, User: 1 << 30}
	var life []byte
	for _, s := range [][]byte{
		step(1, 0, nil), step(15, 0, nil), step(16, 0, drivertest.Put(uint64(1<<3|1<<9|1<<15))), step(3, 0, nil),
		step(2, 0, drivertest.Put(uint64(1<<32|1<<30|1<<29|1<<28))),
		step(5, 1, drivertest.MemTable(region)),
		step(8, 0, drivertest.Put(uint32(1), uint32(8))), step(10, 0, drivertest.Put(uint32(1), uint32(0))),
		step(9, 0, drivertest.Put(uint32(1), uint32(0), uint64(1<<30), uint64(1<<30+1024), uint64(1<<30+512), uint64(0))),
		step(12, 1, drivertest.Put(uint64(1))), step(13, 1, drivertest.Put(uint64(1))),
		step(18, 0, drivertest.Put(uint32(1), uint32(1))),
		step(37, 1, drivertest.Put(uint64(0), uint64(1<<21), uint64(4096), uint64(1<<31), uint64(0))),
		step(38, 0, drivertest.Put(uint64(0), uint64(1<<21), uint64(4096), uint64(1<<31), uint64(0))),
		step(18, 0, drivertest.Put(uint32(1), uint32(0))), step(11, 0, drivertest.Put(uint32(1), uint32(0))),
		step(24, 0, drivertest.Put(uint32(0), uint32(8), uint32(0), uint64(0))),
	} {
		life = append(life, s...)
		f.Add(append([]byte(nil), life...))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		conn, file := drivertest.SocketPair(t)
		front, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		memory := drivertest.NewMemory(t, 1<<16).File
		ended := make(chan error, 1)
		go func() { ended <- NewServer(conn, passive{}, slog.New(slog.DiscardHandler)).Serve(nil) }()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, front)
		}()
		for len(script) >= 3 {
			size := min(int(script[2]), len(script)-3)
			header := binary.LittleEndian.AppendUint32(nil, uint32(script[0]))
			header = binary.LittleEndian.AppendUint32(header, 1|8)
			header = binary.LittleEndian.AppendUint32(header, uint32(size))
			fds := make([]int, script[1]%10)
			for i := range fds {
				fds[i] = int(memory.Fd())
			}
			_, _, err := front.(*net.UnixConn).WriteMsgUnix(append(header, script[3:3+size]...), unix.UnixRights(fds...), nil)
			if err != nil {
				break
			}
			script = script[3+size:]
		}
		_ = front.(*net.UnixConn).CloseWrite()
		if err := <-ended; err == nil {
			t.Error("session ended without an error")
		}
		_ = file.Close()
		_ = front.Close()
		<-drained
	})
}
