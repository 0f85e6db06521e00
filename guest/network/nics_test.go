package network

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestParkUnbindsDevicesOnly(t *testing.T) {
	driver := t.TempDir()
	for _, name := range []string{"bind", "unbind", "uevent", "virtio3"} {
		if err := os.WriteFile(filepath.Join(driver, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := &nics{driver: driver}
	if err := n.park(nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(driver, "unbind"))
	if err != nil || string(data) != "virtio3" {
		t.Errorf("unbound %q, %v", data, err)
	}
	if err := os.Remove(filepath.Join(driver, "virtio3")); err != nil { // as the driver does
		t.Fatal(err)
	}
	if err := n.unpark(); err != nil {
		t.Fatal(err)
	}
	data, err = os.ReadFile(filepath.Join(driver, "bind"))
	if err != nil || string(data) != "virtio3" || len(n.parked) != 0 {
		t.Errorf("bound %q, %v; still parked: %q", data, err, n.parked)
	}
}

func TestParkWithoutTheDriver(t *testing.T) {
	n := &nics{driver: filepath.Join(t.TempDir(), "virtio_net")}
	if err := n.park(nil); err != nil {
		t.Error(err)
	}
}

func TestParkReportsTheDevice(t *testing.T) {
	driver := t.TempDir()
	if err := os.WriteFile(filepath.Join(driver, "virtio0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(driver, "unbind"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := &nics{driver: driver}
	if err := n.park(nil); err == nil {
		t.Error("no error from a driver that cannot unbind")
	}
}

// TestAnotherDeviceWithTheNameOfAParkedOne is parked once, and is not given to
// the driver that has it.
func TestAnotherDeviceWithTheNameOfAParkedOne(t *testing.T) {
	driver := t.TempDir()
	if err := os.WriteFile(filepath.Join(driver, "virtio3"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := &nics{driver: driver}
	for range 2 { // the first one is unplugged, another one comes
		if err := n.park(nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(n.parked) != 1 {
		t.Errorf("parked %q", n.parked)
	}
	if err := n.unpark(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(driver, "bind")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a device that the driver has was given to it")
	}
}
