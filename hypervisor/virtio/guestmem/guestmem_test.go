package guestmem_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/virtio/guestmem"
)

func memfd(t *testing.T, size int64) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("guestmem-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func mapRegion(t *testing.T, f *os.File, r guestmem.Region) *guestmem.Mapping {
	t.Helper()
	m, err := guestmem.Map(f, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmap(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestAppend(t *testing.T) {
	f := memfd(t, 3<<12)
	// Two regions that touch in the guest, though not in the file, then a hole.
	low := mapRegion(t, f, guestmem.Region{GuestAddress: 0x1000, Size: 0x1000, UserAddress: 0x70000000, Offset: 0x1000})
	high := mapRegion(t, f, guestmem.Region{GuestAddress: 0x2000, Size: 0x1000, UserAddress: 0x90000000})
	table, err := guestmem.NewTable([]*guestmem.Mapping{high, low})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("low"), 0x1ffd); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("high"), 0); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		addr uint64
		size uint32
		want []string // nil: refused
	}{
		{"empty", 0xdead0000, 0, []string{}},
		{"in one region", 0x1ffd, 3, []string{"low"}},
		{"across two", 0x1ffd, 7, []string{"low", "high"}},
		{"below all", 0xfff, 2, nil},
		{"beyond all", 0x2fff, 2, nil},
		{"wraps", ^uint64(0), 2, nil},
		{"all of it and more", 0x1000, 0x2001, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := table.Append(nil, test.addr, test.size)
			if test.want == nil {
				if !errors.Is(err, guestmem.ErrOutside) || len(got) != 0 {
					t.Fatalf("got %d slices and %v, want ErrOutside", len(got), err)
				}
				return
			}
			if err != nil || len(got) != len(test.want) {
				t.Fatalf("got %d slices and %v, want %d", len(got), err, len(test.want))
			}
			for i, want := range test.want {
				if string(got[i]) != want {
					t.Errorf("slice %d is %q, want %q", i, got[i], want)
				}
			}
		})
	}
}

func TestUser(t *testing.T) {
	m := mapRegion(t, memfd(t, 1<<12), guestmem.Region{GuestAddress: 0x1000, Size: 0x1000, UserAddress: 0x70000000})
	table, err := guestmem.NewTable([]*guestmem.Mapping{m})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := table.User(0x70000ff0, 16); err != nil || len(b) != 16 {
		t.Errorf("end of the region: %d bytes, %v", len(b), err)
	}
	for _, bad := range [][2]uint64{{0x70000ff0, 17}, {0x6fffffff, 1}, {0x70000000, ^uint64(0)}, {^uint64(0), 2}} {
		if _, err := table.User(bad[0], bad[1]); !errors.Is(err, guestmem.ErrOutside) {
			t.Errorf("%#x+%#x: got %v, want ErrOutside", bad[0], bad[1], err)
		}
	}
}

func TestBadRegions(t *testing.T) {
	f := memfd(t, 1<<12)
	for name, r := range map[string]guestmem.Region{
		"empty":               {},
		"longer than file":    {Size: 0x1001},
		"offset beyond file":  {Size: 0x1000, Offset: 0x1000},
		"offset wraps":        {Size: 0x1000, Offset: ^uint64(0) - 0xff7},
		"guest address wraps": {Size: 0x1000, GuestAddress: ^uint64(0) - 0xff7},
		"user address wraps":  {Size: 0x1000, UserAddress: ^uint64(0) - 0xff7},
		"unaligned":           {Size: 0x100, Offset: 4},
	} {
		if m, err := guestmem.Map(f, r); err == nil {
			t.Errorf("%s: mapped", name)
			_ = m.Unmap()
		}
	}
}

func TestOverlap(t *testing.T) {
	f := memfd(t, 1<<13)
	a := mapRegion(t, f, guestmem.Region{GuestAddress: 0x1000, Size: 0x1000})
	b := mapRegion(t, f, guestmem.Region{GuestAddress: 0x1800, Size: 0x1000})
	if _, err := guestmem.NewTable([]*guestmem.Mapping{b, a}); err == nil {
		t.Error("overlapping regions were taken")
	}
}

func TestGuard(t *testing.T) {
	f := memfd(t, 1<<13)
	m := mapRegion(t, f, guestmem.Region{Size: 1 << 13})
	table, err := guestmem.NewTable([]*guestmem.Mapping{m})
	if err != nil {
		t.Fatal(err)
	}
	b, err := table.Append(nil, 0, 1<<13)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 12); err != nil {
		t.Fatal(err)
	}
	into := make([]byte, 1<<13)
	err = guestmem.Guard(func() error {
		copy(into, b[0])
		return nil
	})
	if !errors.Is(err, guestmem.ErrFault) {
		t.Errorf("reading beyond the end of a file that was cut short: got %v, want ErrFault", err)
	}
	other := errors.New("other")
	if err := guestmem.Guard(func() error { return other }); !errors.Is(err, other) {
		t.Errorf("got %v, want the function's own error", err)
	}
}
