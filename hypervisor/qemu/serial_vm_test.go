//go:build vm

package qemu_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/hypervisor/hypervisortest"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/tail"
)

// TestSerialConsole boots Debian's kernel, whose virtio drivers are modules that
// this guest lacks: what the guest says comes by the serial port alone.
func TestSerialConsole(t *testing.T) {
	vmlinuz, err := filepath.Abs("../../share/kata-containers/debian/vmlinuz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(vmlinuz); err != nil {
		t.Fatalf("%v: run make image first", err)
	}
	console := tail.New(0)
	o := options(t, hypervisortest.BuildGuest(t), openVsock(t))
	o.Kernel, o.Console = vmlinuz, console
	o.KernelParams = append(o.KernelParams, "console=ttyS0")
	vm, err := qemu.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The guest finds no vsock and powers off.
	if err := vm.Wait(t.Context()); err != nil {
		t.Errorf("%v; the console has %q", err, console.Lines(10))
	}
	if text := console.String(); !strings.Contains(text, "guest: failed") {
		t.Errorf("the console has %q", text)
	}
}
