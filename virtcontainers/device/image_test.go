package device

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// image opens a file that the test makes.
func image(t *testing.T, path string, readOnly bool) Image {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	opened, err := OpenImage(path, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func isClosed(file *os.File) bool {
	_, err := file.Stat()
	return errors.Is(err, os.ErrClosed)
}

// A layer that several containers have is one disk, by whatever path they name it.
func TestAnImageIsPluggedInOnce(t *testing.T) {
	vm := newFakeVM()
	m := New(vm, openNull)
	path, link := filepath.Join(t.TempDir(), "layer"), filepath.Join(t.TempDir(), "link")
	first, writable := image(t, path, true), image(t, path+"-2", false)
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	second, again := image(t, link, true), image(t, path, true)
	m.Reserve("one", []Block{{Major: 8}}, first, writable, again)
	m.Reserve("two", nil, second)
	one, err := m.MapToGuest(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	two, err := m.MapToGuest(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	if len(one) != 3 || len(two) != 1 || one[1] != two[0] || vm.attached != 3 {
		t.Errorf("disks %v and %v, %d plugged in", one, two, vm.attached)
	}
	if !vm.disks[one[1].Serial].ReadOnly || vm.disks[one[2].Serial].ReadOnly {
		t.Errorf("disks %v", vm.disks)
	}
	for _, i := range []Image{first, writable, again, second} {
		if !isClosed(i.File) { // the machine has a duplicate
			t.Errorf("%v is still open", i.Block)
		}
	}
	for i, name := range []string{"one", "two"} {
		if err := m.UnmapFromGuest(t.Context(), name); err != nil || vm.count() != 1-i {
			t.Errorf("%d disks are left: %v", vm.count(), err)
		}
	}
}

// Images are closed when it comes to nothing.
func TestImagesAreClosed(t *testing.T) {
	vm := newFakeVM()
	m := New(vm, openNull)
	one, other := image(t, filepath.Join(t.TempDir(), "x"), false), image(t, filepath.Join(t.TempDir(), "y"), false)
	m.Reserve("one", nil, one)
	m.Reserve("one", nil, other) // has a reservation
	if !isClosed(other.File) {
		t.Error("one that was not reserved is still open")
	}
	vm.fail = errFail
	if _, err := m.MapToGuest(t.Context(), "one"); !errors.Is(err, errFail) || isClosed(one.File) {
		t.Errorf("%v", err)
	}
	vm.fail = nil
	if err := m.UnmapFromGuest(t.Context(), "one"); err != nil || !isClosed(one.File) {
		t.Errorf("one that was never plugged in is still open: %v", err)
	}
}

func TestOpenImage(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, os.DevNull} {
		if _, err := OpenImage(path, true); !errors.Is(err, ErrNoDisk) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := OpenImage(filepath.Join(dir, "gone"), true); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	i := image(t, filepath.Join(dir, "file"), false)
	defer i.File.Close()
	if _, err := i.File.WriteString("x"); err != nil || i.ReadOnly {
		t.Errorf("%v, %v", i.Block, err)
	}
}
