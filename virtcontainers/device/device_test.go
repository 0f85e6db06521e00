package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"kata-runtime/hypervisor"
)

// fakeVM takes devices, unless it is told to fail.
type fakeVM struct {
	mu       sync.Mutex
	disks    map[string]*hypervisor.Disk
	attached int
	fail     error
}

func newFakeVM() *fakeVM { return &fakeVM{disks: make(map[string]*hypervisor.Disk)} }

func (vm *fakeVM) Attach(_ context.Context, d hypervisor.Device) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.fail != nil {
		return vm.fail
	}
	disk, ok := d.(*hypervisor.Disk)
	if !ok || vm.disks[disk.ID] != nil {
		return fmt.Errorf("unexpected device %v", d)
	}
	vm.disks[disk.ID] = disk
	vm.attached++
	return nil
}

func (vm *fakeVM) Detach(_ context.Context, id string) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.fail != nil {
		return vm.fail
	}
	if vm.disks[id] == nil {
		return hypervisor.ErrNoDevice
	}
	delete(vm.disks, id)
	return nil
}

func (vm *fakeVM) count() int {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return len(vm.disks)
}

// openNull stands for a device that the host's kernel lets be written.
func openNull(_, _ uint32, readOnly bool) (*os.File, bool, error) {
	file, err := os.Open(os.DevNull)
	return file, readOnly, err
}

var errFail = errors.New("not now")

func serials(disks []Disk) []string {
	var all []string
	for _, d := range disks {
		all = append(all, d.Serial)
	}
	return all
}

func TestADeviceIsPluggedInOnce(t *testing.T) {
	vm := newFakeVM()
	m := New(vm, openNull)
	shared, own := Block{Major: 8}, Block{Major: 8, Minor: 16, ReadOnly: true}
	m.Reserve("one", []Block{shared, own, shared})
	m.Reserve("two", []Block{shared})
	m.Reserve("two", []Block{own}) // has a reservation
	var first, second []Disk
	for range 2 { // idempotent
		var err error
		if first, err = m.MapToGuest(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		if second, err = m.MapToGuest(t.Context(), "two"); err != nil {
			t.Fatal(err)
		}
	}
	if len(first) != 2 || len(second) != 1 || first[0] != second[0] || vm.attached != 2 {
		t.Errorf("disks %v and %v, %d plugged in", first, second, vm.attached)
	}
	if !vm.disks[first[1].Serial].ReadOnly || vm.disks[first[0].Serial].ReadOnly {
		t.Errorf("disks %v", vm.disks)
	}
	for range 2 {
		if err := m.UnmapFromGuest(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		if vm.count() != 1 {
			t.Errorf("%d disks are left to the second container", vm.count())
		}
	}
	if err := m.UnmapFromGuest(t.Context(), "two"); err != nil || vm.count() != 0 {
		t.Errorf("%d disks are left: %v", vm.count(), err)
	}
	if _, err := m.MapToGuest(t.Context(), "two"); !errors.Is(err, ErrNotReserved) {
		t.Errorf("map without a reservation: %v", err)
	}
}

// What is writable for one container is out of reach for another.
func TestReadOnlyIsADiskOfItsOwn(t *testing.T) {
	vm := newFakeVM()
	m := New(vm, openNull)
	m.Reserve("reader", []Block{{Major: 8, ReadOnly: true}})
	m.Reserve("writer", []Block{{Major: 8}})
	var all []string
	for _, c := range []string{"reader", "writer"} {
		disks, err := m.MapToGuest(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, serials(disks)...)
	}
	if len(all) != 2 || all[0] == all[1] || !vm.disks[all[0]].ReadOnly || vm.disks[all[1]].ReadOnly {
		t.Errorf("disks %v", vm.disks)
	}
}

func TestFailuresCanBeRepeated(t *testing.T) {
	vm := newFakeVM()
	m := New(vm, openNull)
	m.Reserve("one", []Block{{Major: 8}})
	vm.fail = errFail
	if _, err := m.MapToGuest(t.Context(), "one"); !errors.Is(err, errFail) {
		t.Errorf("map: %v", err)
	}
	vm.fail = nil
	before, err := m.MapToGuest(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	vm.fail = errFail
	if err := m.UnmapFromGuest(t.Context(), "one"); !errors.Is(err, errFail) {
		t.Errorf("unmap: %v", err)
	}
	vm.fail = nil
	// The guest still has the old disk: the new one is another.
	m.Reserve("two", []Block{{Major: 8}})
	after, err := m.MapToGuest(t.Context(), "two")
	if err != nil || slices.Equal(serials(before), serials(after)) || vm.count() != 2 {
		t.Errorf("disks %v and %v, %v", before, after, err)
	}
	// Any later call takes the rest along.
	if err := m.UnmapFromGuest(t.Context(), "two"); err != nil || vm.count() != 0 {
		t.Errorf("%d disks are left: %v", vm.count(), err)
	}
	// A machine that has ended has none.
	m.Reserve("three", []Block{{Major: 8}})
	if _, err := m.MapToGuest(t.Context(), "three"); err != nil {
		t.Fatal(err)
	}
	vm.fail = hypervisor.ErrEnded
	if err := m.UnmapFromGuest(t.Context(), "three"); err != nil {
		t.Errorf("unmap from a machine that has ended: %v", err)
	}
}

func TestContainersComeAndGoTogether(t *testing.T) {
	vm := newFakeVM()
	m := New(vm, openNull)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			name := fmt.Sprint("container", i)
			m.Reserve(name, []Block{{Major: 8}, {Major: 9, Minor: uint32(i % 3)}})
			disks, err := m.MapToGuest(t.Context(), name)
			if err != nil || len(disks) != 2 || disks[0].Serial == "" {
				t.Errorf("disks %v, %v", disks, err)
			}
			if err := m.UnmapFromGuest(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if vm.count() != 0 {
		t.Errorf("%d disks are left", vm.count())
	}
}
