package drivertest

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory is a guest's memory: two regions in one file, the second one far above
// the first in the guest and before it in the file.
type Memory struct {
	File    *os.File
	Regions [2]Region
	bytes   []byte
	next    uint64
	marked  uint64
}

// Region is a piece of guest memory, as in a vhost-user memory table.
type Region struct {
	Guest, Size, User, Offset uint64
}

// Guest addresses of the regions.
const (
	LowBase  = 0x10000
	HighBase = 1 << 32
)

// NewMemory returns memory with size bytes, a multiple of 4 KiB, per region.
func NewMemory(t testing.TB, size uint64) *Memory {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "guest memory")
	t.Cleanup(func() { _ = file.Close() })
	if err := file.Truncate(int64(2 * size)); err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(fd, 0, int(2*size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mapped) })
	user := uint64(uintptr(unsafe.Pointer(&mapped[0])))
	return &Memory{
		File: file,
		Regions: [2]Region{
			{Guest: LowBase, Size: size, User: user + size, Offset: size},
			{Guest: HighBase, Size: size, User: user, Offset: 0},
		},
		bytes: mapped,
		next:  HighBase,
	}
}

// At returns size bytes of memory at a guest address, nil if that is no memory.
func (m *Memory) At(addr, size uint64) []byte {
	for _, r := range m.Regions {
		if addr >= r.Guest && addr+size <= r.Guest+r.Size {
			at := addr - r.Guest + r.Offset
			return m.bytes[at : at+size]
		}
	}
	return nil
}

// User is the VMM's address of a guest address.
func (m *Memory) User(addr uint64) uint64 {
	for _, r := range m.Regions {
		if addr >= r.Guest && addr < r.Guest+r.Size {
			return addr - r.Guest + r.User
		}
	}
	return 0
}

// Mark remembers what is allocated; Rewind lets go of what was since.
func (m *Memory) Mark() { m.marked = m.next }

// Rewind is what undoes Alloc since Mark.
func (m *Memory) Rewind() { m.next = m.marked }

// Alloc returns the guest address of size fresh bytes, all zero.
func (m *Memory) Alloc(size uint64) uint64 {
	addr := m.next
	m.next += (size + 63) &^ 63
	if m.next > HighBase+m.Regions[1].Size {
		panic("out of guest memory")
	}
	clear(m.At(addr, size))
	return addr
}
