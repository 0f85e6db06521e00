package shim

import "testing"

func TestControlGroupOfSystemd(t *testing.T) {
	for path, want := range map[string]bool{
		"kubepods-besteffort-pod1.slice:cri-containerd:abc": true,
		"/kubepods/besteffort/pod1/abc":                     false,
		"/kubepods.slice/abc":                               false,
		"a:b:c":                                             false,
		"":                                                  false,
	} {
		if got := ofSystemd(path, true); got != want {
			t.Errorf("%q: %v", path, got)
		}
		if ofSystemd(path, false) {
			t.Errorf("%q is of a systemd that does not run", path)
		}
	}
}
