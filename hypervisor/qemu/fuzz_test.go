package qemu

import (
	"encoding/json"
	"log/slog"
	"testing"

	"kata-runtime/hypervisor/qmp"
)

// FuzzEvents lets a QEMU that was taken over tell anything, to a driver that has
// devices and may be plugging them out.
func FuzzEvents(f *testing.F) {
	f.Add("SHUTDOWN", []byte(`{"guest": true, "reason": "guest-reset"}`), "STOP", []byte(`null`))
	f.Add("DEVICE_DELETED", []byte(`{"device":"kata-d1","path":"/machine"}`), "DEVICE_DELETED", []byte(`{"device":"kata-d1"}`))
	f.Add("DEVICE_UNPLUG_GUEST_ERROR", []byte(`{"device":"d1"}`), "DEVICE_DELETED", []byte(`{"device":1}`))
	f.Add("RESUME", []byte(`[]`), "", []byte(`{`))
	f.Fuzz(func(t *testing.T, first string, firstData []byte, second string, secondData []byte) {
		d := &attached{deleted: make(chan unplugged, 1)}
		vm := &VM{opts: Options{Log: slog.New(slog.DiscardHandler)}, devices: map[string]*attached{"d1": d}, ended: make(chan struct{})}
		for range 2 { // each may come again
			vm.handle(qmp.Event{Name: first, Data: json.RawMessage(firstData)})
			vm.handle(qmp.Event{Name: second, Data: json.RawMessage(secondData)})
		}
		if len(vm.devices) != 1 {
			t.Errorf("%d devices", len(vm.devices))
		}
	})
}

// FuzzVersion: whatever a program says.
func FuzzVersion(f *testing.F) {
	f.Add("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright\n")
	f.Add("\xff")
	f.Fuzz(func(t *testing.T, text string) {
		if version, err := parseVersion(text); err == nil && version == "" {
			t.Error("an empty version")
		}
	})
}
