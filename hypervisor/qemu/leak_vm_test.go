//go:build vm

package qemu_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/hypervisortest"
	"kata-runtime/hypervisor/qemu"
)

// TestNothingIsLeft runs VMs to each kind of end, and compares this process's
// descriptors and children before and after.
func TestNothingIsLeft(t *testing.T) {
	initrd := hypervisortest.BuildGuest(t)
	cycle(t, initrd, "poweroff")
	before := descriptors(t)
	for _, end := range []string{"poweroff", "panic", "stop"} {
		cycle(t, initrd, end)
	}
	if after := descriptors(t); len(after) != len(before) {
		t.Errorf("descriptors %q became %q", before, after)
	}
	children, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range children {
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) != "" {
			t.Errorf("children are left: %s", text)
		}
	}
}

// cycle boots a VM, ends it, and closes what the test made for it.
func cycle(t *testing.T, initrd, end string) {
	t.Helper()
	host := listen(t)
	starter := child.NewStarter()
	o := options(t, initrd, host)
	o.Starter, o.RootPorts = starter, 2
	vm, err := qemu.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ready := hypervisortest.Boot(t, vm)
	if end == "stop" {
		err = vm.Stop(t.Context())
	} else {
		hypervisortest.Tell(t, vm, end)
		_ = vm.Wait(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
	_ = ready.Close()
	if err := host.Close(); err != nil {
		t.Error(err)
	}
	starter.Close()
}

// descriptors names what this process has open.
func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil {
			names = append(names, name)
		}
	}
	return names
}
