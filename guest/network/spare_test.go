package network

import (
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
	if err := park(driver); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(driver, "unbind"))
	if err != nil || string(data) != "virtio3" {
		t.Errorf("unbound %q, %v", data, err)
	}
}

func TestParkWithoutTheDriver(t *testing.T) {
	if err := park(filepath.Join(t.TempDir(), "virtio_net")); err != nil {
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
	if err := park(driver); err == nil {
		t.Error("no error from a driver that cannot unbind")
	}
}
