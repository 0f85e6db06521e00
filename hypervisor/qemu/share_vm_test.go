//go:build vm

package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/hypervisortest"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/virtiofsd"
)

// shared returns a directory with a file "hello".
func shared(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func serve(t *testing.T, starter *child.Starter, dir string) *virtiofsd.Daemon {
	t.Helper()
	d, err := virtiofsd.Start(t.Context(), virtiofsd.Options{SharedDir: dir, Starter: starter, Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Stop() })
	return d
}

// bootWith boots a VM with devices besides its vsock.
func bootWith(t *testing.T, starter *child.Starter, ports int, devices ...hypervisor.Device) *qemu.VM {
	t.Helper()
	o := options(t, hypervisortest.BuildGuest(t), openVsock(t))
	o.Devices = append(o.Devices, devices...)
	o.RootPorts, o.Starter = ports, starter
	vm, err := qemu.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Stop(t.Context()); err != nil && !errors.Is(err, t.Context().Err()) {
			t.Error(err)
		}
	})
	hypervisortest.Boot(t, vm)
	return vm
}

// TestShares has one share of each kind from the start and plugs another.
func TestShares(t *testing.T) {
	starter := child.NewStarter()
	t.Cleanup(starter.Close)
	cold, hot := serve(t, starter, shared(t, "cold")), serve(t, starter, shared(t, "hot"))
	vm := bootWith(t, starter, 1,
		&hypervisor.Share{ID: "cold", Tag: "cold", Socket: cold.Socket()},
		&hypervisor.Share{ID: "plan9", Tag: "plan9", Directory: shared(t, "nine")})
	if got := hypervisortest.Ask(t, vm, "share virtiofs cold"); got != "cold" {
		t.Errorf("virtiofs of the start: %q", got)
	}
	if got := hypervisortest.Ask(t, vm, "share 9p plan9"); got != "nine" {
		t.Errorf("9p: %q", got)
	}
	if err := vm.Attach(t.Context(), &hypervisor.Share{ID: "hot", Tag: "hot", Socket: hot.Socket()}); err != nil {
		t.Fatal(err)
	}
	if got := hypervisortest.Ask(t, vm, "share virtiofs hot"); got != "hot" {
		t.Errorf("virtiofs that was plugged: %q", got)
	}
	late := &hypervisor.Share{ID: "late", Tag: "late", Directory: "/"}
	if err := vm.Attach(t.Context(), late); err == nil {
		t.Error("a 9p share was plugged")
	}
	if err := vm.Detach(t.Context(), "cold"); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("detach a device of the start: %v", err)
	}
	// The daemons follow their VMM.
	_ = cold.Socket().Close()
	_ = hot.Socket().Close()
	if err := vm.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*virtiofsd.Daemon{cold, hot} {
		var exit *hypervisor.ExitError
		if err := d.Wait(t.Context()); err != nil && !errors.As(err, &exit) {
			t.Errorf("virtiofsd: %v", err)
		}
	}
}
