package virtqueue_test

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/virtio/virtqueue"
)

// flatMemory is guest memory at address 0, each buffer cut in two to make
// ranges cross regions.
type flatMemory []byte

func (m flatMemory) Append(dst [][]byte, addr uint64, size uint32) ([][]byte, error) {
	if addr > uint64(len(m)) || uint64(size) > uint64(len(m))-addr {
		return dst, errOutside
	}
	b := m[addr : addr+uint64(size)]
	if half := len(b) / 2; half > 64 {
		return append(dst, b[:half], b[half:]), nil
	}
	return append(dst, b), nil
}

// Layout of the fuzzed memory: a table, the rings, and data, which may hold
// indirect tables.
const (
	fuzzSize  = 8
	fuzzDesc  = 0
	fuzzAvail = 16 * fuzzSize
	fuzzUsed  = fuzzAvail + 32
	fuzzData  = fuzzUsed + 96
	fuzzBytes = 4096
)

// seed is memory with one chain available.
func seed(table func([]byte)) []byte {
	b := make([]byte, 512)
	table(b)
	binary.LittleEndian.PutUint16(b[fuzzAvail+2:], 1)
	return b
}

// FuzzQueue works on a queue whose memory a driver filled with anything, and
// changes while it is used.
func FuzzQueue(f *testing.F) {
	put := drivertest.PutDescriptor
	f.Add(uint8(0), seed(func(b []byte) { put(b, 0, fuzzData, 100, 0, 0) }))
	f.Add(uint8(1), seed(func(b []byte) {
		put(b, 0, fuzzData, 100, drivertest.Next, 1)
		put(b, 1, fuzzData+100, 4, drivertest.Write, 0)
	}))
	f.Add(uint8(2), seed(func(b []byte) { put(b, 0, fuzzData, 100, drivertest.Next, 0) }))
	f.Add(uint8(3), seed(func(b []byte) {
		put(b, 0, fuzzData, 32, drivertest.Indirect, 0)
		put(b[fuzzData:], 0, fuzzData, 8, drivertest.Next, 1)
		put(b[fuzzData:], 1, fuzzData, 8, drivertest.Write|drivertest.Indirect, 0)
	}))
	f.Add(uint8(3), seed(func(b []byte) { put(b, 0, ^uint64(0)-50, 100, drivertest.Write, 0) }))
	f.Fuzz(func(t *testing.T, features uint8, content []byte) {
		words := make([]uint64, fuzzBytes/8) // for the alignment
		mem := flatMemory(unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), fuzzBytes))
		copy(mem, content)
		cfg := virtqueue.Config{
			Size:     fuzzSize,
			Desc:     mem[fuzzDesc : fuzzDesc+virtqueue.DescBytes(fuzzSize)],
			Avail:    mem[fuzzAvail : fuzzAvail+virtqueue.AvailBytes(fuzzSize)],
			Used:     mem[fuzzUsed : fuzzUsed+virtqueue.UsedBytes(fuzzSize)],
			Features: uint64(features&3) << 28,
		}
		q, err := virtqueue.New(mem, cfg)
		if err != nil {
			t.Fatal(err)
		}
		var chain virtqueue.Chain
		for range 4 * fuzzSize {
			ok, err := q.Pop(&chain)
			if err != nil {
				return
			}
			if !ok {
				if more, err := q.WantNotify(); !more || err != nil {
					return
				}
				continue
			}
			if n := len(chain.Readable) + len(chain.Writable); n > 2*fuzzSize {
				t.Fatalf("a chain of %d buffers in a queue of %d", n, fuzzSize)
			}
			// What the device writes may be its own rings and tables.
			var scratch [64]byte
			virtqueue.CopyOut(scratch[:], chain.Readable, 0)
			q.Push(&chain, uint32(virtqueue.Copy(chain.Writable, 0, scratch[:])))
			q.Publish()
			q.RefuseNotify()
		}
	})
}
