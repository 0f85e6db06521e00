package hypervisortest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kata-runtime/hypervisor"
)

// textDisk returns a disk of 1 MiB that begins with a line of text. Its serial
// is its id.
func textDisk(t *testing.T, id, text string, readOnly bool) *hypervisor.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), id)
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	file, err := os.OpenFile(path, mode, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return &hypervisor.Disk{ID: id, File: file, ReadOnly: readOnly, Serial: id}
}

// testDisks plugs more disks, one after another, than there are slots.
func testDisks(t *testing.T, d Driver) {
	vm := boot(t, d, Config{Slots: 2})
	ctx := bounded(t)
	for round := range 2 {
		text := "round " + strconv.Itoa(round)
		first, second := textDisk(t, "first", text, false), textDisk(t, "second", "other", true)
		for _, disk := range []*hypervisor.Disk{first, second} {
			if err := vm.Attach(ctx, disk); err != nil {
				t.Fatal(err)
			}
			// The driver has a duplicate.
			_ = disk.File.Close()
		}
		expect(t, vm, "disk first", "rw "+text)
		expect(t, vm, "disk second", "ro other")
		if err := vm.Attach(ctx, textDisk(t, "first", "x", false)); !errors.Is(err, os.ErrExist) {
			t.Errorf("Attach with an id that is taken: %v", err)
		}
		if err := vm.Attach(ctx, textDisk(t, "third", "x", false)); !errors.Is(err, hypervisor.ErrNoSlot) {
			t.Errorf("Attach to a full bus: %v", err)
		}
		for _, id := range []string{"first", "second"} {
			if err := vm.Detach(ctx, id); err != nil {
				t.Fatal(err)
			}
			expect(t, vm, "gone "+id, "gone")
			if err := vm.Detach(ctx, id); !errors.Is(err, hypervisor.ErrNoDevice) {
				t.Errorf("Detach again: %v", err)
			}
		}
	}
}

// testManyDisks has as many disks at a time as a large pod.
func testManyDisks(t *testing.T, d Driver) {
	const count = 20
	vm := boot(t, d, Config{Slots: count})
	ctx := bounded(t)
	id := func(i int) string { return "many" + strconv.Itoa(i) }
	for i := range count {
		if err := vm.Attach(ctx, textDisk(t, id(i), "disk "+strconv.Itoa(i), i%2 == 1)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range count {
		expect(t, vm, "disk "+id(i), []string{"rw", "ro"}[i%2]+" disk "+strconv.Itoa(i))
	}
	for i := range count {
		if err := vm.Detach(ctx, id(i)); err != nil {
			t.Fatal(err)
		}
		expect(t, vm, "gone "+id(i), "gone")
	}
	// A place can be used again.
	if err := vm.Attach(ctx, textDisk(t, "again", "once more", false)); err != nil {
		t.Fatal(err)
	}
	expect(t, vm, "disk again", "rw once more")
}

func testNIC(t *testing.T, d Driver) {
	vm := boot(t, d, Config{Slots: 1})
	ctx := bounded(t)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	nic := &hypervisor.NIC{ID: "eth0", Tap: []*os.File{d.NewTap(t)}, MAC: mac, MTU: 1400}
	if err := vm.Attach(ctx, nic); err != nil {
		t.Fatal(err)
	}
	expect(t, vm, "nic "+mac.String(), "1400")
	if err := vm.Detach(ctx, "eth0"); err != nil {
		t.Error(err)
	}
}

// testResize grows a VM, and past its maximum.
func testResize(t *testing.T, d Driver) {
	vm := boot(t, d, Config{MaxSize: hypervisor.Size{VCPUs: 2, MemoryMiB: 1024}})
	ctx := bounded(t)
	before := guestNumber(t, vm, "memory 1")
	for _, step := range []struct{ ask, least hypervisor.Size }{
		{hypervisor.Size{VCPUs: 1, MemoryMiB: 100}, hypervisor.Size{VCPUs: 1, MemoryMiB: 256}},
		{hypervisor.Size{MemoryMiB: 300}, hypervisor.Size{VCPUs: 1, MemoryMiB: 300}},
		{hypervisor.Size{VCPUs: 2}, hypervisor.Size{VCPUs: 2, MemoryMiB: 300}},
		{hypervisor.Size{VCPUs: 2, MemoryMiB: 700}, hypervisor.Size{VCPUs: 2, MemoryMiB: 700}},
	} {
		got, err := vm.Resize(ctx, step.ask)
		if err != nil {
			t.Fatalf("%+v: %v", step.ask, err)
		}
		if got.VCPUs != step.least.VCPUs || got.MemoryMiB < step.least.MemoryMiB || got != vm.Info().Size {
			t.Errorf("%+v became %+v, and Info says %+v", step.ask, got, vm.Info().Size)
		}
	}
	expect(t, vm, "cpus 2", "2")
	grown := vm.Info().Size.MemoryMiB - 256
	// The kernel keeps a part of what is added for itself: 64 bytes a page.
	least := before + grown*98/100
	if now := guestNumber(t, vm, "memory "+strconv.Itoa(least)); now < least {
		t.Errorf("the guest has %d MiB", now)
	}
	if threads := vm.Info().VCPUThreads; len(threads) != 0 && len(threads) != 2 {
		t.Errorf("vCPU threads: %v", threads)
	}
	for _, size := range []hypervisor.Size{{VCPUs: 3}, {MemoryMiB: 4096}} {
		if _, err := vm.Resize(ctx, size); !errors.Is(err, hypervisor.ErrUnsupported) {
			t.Errorf("Resize to %+v: %v", size, err)
		}
	}
}

// testSmallSteps grows a VM more often than it has slots for memory.
func testSmallSteps(t *testing.T, d Driver) {
	vm := boot(t, d, Config{MaxSize: hypervisor.Size{MemoryMiB: 2048}})
	for size := 320; size <= 1280; size += 64 {
		got, err := vm.Resize(bounded(t), hypervisor.Size{MemoryMiB: size})
		if err != nil {
			t.Fatalf("%d MiB: %v", size, err)
		}
		if got.MemoryMiB < size || got.MemoryMiB > 2048 {
			t.Errorf("%d MiB became %d", size, got.MemoryMiB)
		}
	}
}

func guestNumber(t *testing.T, vm hypervisor.VM, question string) int {
	t.Helper()
	answer := Ask(t, vm, question)
	n, err := strconv.Atoi(strings.TrimSpace(answer))
	if err != nil {
		t.Fatalf("%s: %q", question, answer)
	}
	return n
}
