package guestmem

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// MaxRegions is how many regions a Table may hold. 32 memory slots are what
// QEMU's own back-end library offers; the rest is head-room.
const MaxRegions = 64

// ErrOutside is wrapped by the error of an access outside guest memory.
var ErrOutside = errors.New("address is outside guest memory")

// Region describes one piece of guest memory as the VMM announces it.
type Region struct {
	// GuestAddress is where the guest sees the region, in bytes.
	GuestAddress uint64
	// Size is its length in bytes, not 0.
	Size uint64
	// UserAddress is where the VMM itself has mapped it. Ring addresses come in
	// these terms.
	UserAddress uint64
	// Offset is where it starts in its file, in bytes.
	Offset uint64
}

// contains says whether size bytes from addr lie within length bytes from start.
func contains(start, length, addr, size uint64) bool {
	return addr >= start && addr-start <= length && size <= length-(addr-start)
}

// Table is an immutable set of mapped regions. It is safe for concurrent use,
// but nothing may touch memory that it handed out after the Mappings that it
// was built from were released.
type Table struct {
	maps []*Mapping
}

// NewTable returns a table of the given mappings, which must not overlap. The
// table does not own them.
func NewTable(maps []*Mapping) (*Table, error) {
	if len(maps) > MaxRegions {
		return nil, fmt.Errorf("%d memory regions, at most %d are supported", len(maps), MaxRegions)
	}
	sorted := slices.Clone(maps)
	slices.SortFunc(sorted, func(a, b *Mapping) int {
		switch {
		case a.GuestAddress < b.GuestAddress:
			return -1
		case a.GuestAddress > b.GuestAddress:
			return 1
		}
		return 0
	})
	for i := 1; i < len(sorted); i++ {
		before := sorted[i-1]
		if before.GuestAddress+before.Size > sorted[i].GuestAddress {
			return nil, fmt.Errorf("memory regions at %#x and %#x overlap", before.GuestAddress, sorted[i].GuestAddress)
		}
	}
	return &Table{maps: sorted}, nil
}

// Append appends to dst the host's view of size bytes of guest memory at the
// guest address addr: more than one slice where the range crosses regions that
// touch. Every byte of the range must be guest memory; otherwise the error
// wraps ErrOutside and dst is returned as it was.
func (t *Table) Append(dst [][]byte, addr uint64, size uint32) ([][]byte, error) {
	start := len(dst)
	at, left := addr, uint64(size)
	for left > 0 {
		m := t.find(at)
		if m == nil {
			return dst[:start], fmt.Errorf("guest buffer of %d bytes at %#x: %w", size, addr, ErrOutside)
		}
		offset := at - m.GuestAddress
		n := min(left, m.Size-offset)
		dst = append(dst, m.bytes[offset:offset+n:offset+n])
		at, left = at+n, left-n
	}
	return dst, nil
}

func (t *Table) find(addr uint64) *Mapping {
	for _, m := range t.maps {
		if contains(m.GuestAddress, m.Size, addr, 1) {
			return m
		}
	}
	return nil
}

// User returns the host's view of size bytes at addr, an address in the VMM's
// own address space. The range must lie within one region.
func (t *Table) User(addr, size uint64) ([]byte, error) {
	for _, m := range t.maps {
		if contains(m.UserAddress, m.Size, addr, size) {
			offset := addr - m.UserAddress
			return m.bytes[offset : offset+size : offset+size], nil
		}
	}
	return nil, fmt.Errorf("range of %d bytes at the VMM's address %#x: %w", size, addr, ErrOutside)
}

// Mapping is one region of guest memory mapped into this process.
type Mapping struct {
	Region
	mapped []byte // the whole mapping, from the start of the file
	bytes  []byte // the region
}

// Map maps a region of file, shared and writable. A file that ends before the
// region does is refused: an access beyond the end of a file is a SIGBUS. The
// mapping stays valid after file is closed.
func Map(file *os.File, r Region) (*Mapping, error) {
	length, err := mapLength(file, r)
	if err != nil {
		return nil, fmt.Errorf("map guest memory at %#x: %w", r.GuestAddress, err)
	}
	// From the file's start on, because the offset of a region need not be a
	// multiple of a huge page.
	mapped, err := unix.Mmap(int(file.Fd()), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of guest memory at %#x: %w", r.Size, r.GuestAddress, err)
	}
	// Guest memory has no place in a core dump of this process. Refusing costs
	// nothing but the size of the dump.
	_ = unix.Madvise(mapped, unix.MADV_DONTDUMP)
	return &Mapping{Region: r, mapped: mapped, bytes: mapped[r.Offset : r.Offset+r.Size]}, nil
}

// mapLength checks the region against its file and returns how many bytes of
// the file to map.
func mapLength(file *os.File, r Region) (int, error) {
	if r.Size == 0 || r.GuestAddress+r.Size < r.GuestAddress || r.UserAddress+r.Size < r.UserAddress || r.Offset+r.Size < r.Offset {
		return 0, fmt.Errorf("region %#x+%#x is empty or wraps around", r.GuestAddress, r.Size)
	}
	if r.Offset%8 != 0 || r.GuestAddress%8 != 0 {
		return 0, fmt.Errorf("region %#x at offset %#x is not aligned", r.GuestAddress, r.Offset)
	}
	info, err := file.Stat()
	if err != nil {
		return 0, fmt.Errorf("size of the memory file: %w", err)
	}
	end := r.Offset + r.Size
	if size := info.Size(); size < 0 || end > uint64(size) {
		return 0, fmt.Errorf("memory file has %d bytes, the region ends at %d", info.Size(), end)
	}
	length := int(end)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil {
		return 0, fmt.Errorf("file system of the memory file: %w", err)
	}
	// Huge pages are unmapped as a whole only.
	if page := int(fs.Bsize); fs.Type == unix.HUGETLBFS_MAGIC && page > 0 {
		length = (length + page - 1) / page * page
	}
	return length, nil
}

// Unmap ends the mapping. It is idempotent. No slice of it may be used any more.
func (m *Mapping) Unmap() error {
	if m.mapped == nil {
		return nil
	}
	err := unix.Munmap(m.mapped)
	m.mapped, m.bytes = nil, nil
	if err != nil {
		return fmt.Errorf("unmap guest memory at %#x: %w", m.GuestAddress, err)
	}
	return nil
}
