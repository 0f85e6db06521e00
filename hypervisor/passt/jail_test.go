package passt

import "testing"

func TestBindsBelow(t *testing.T) {
	for ports, want := range map[string]bool{
		"none": false, "": false, "8081": false, "8000-8010,9000": false, "8080:80": false, "1024": false,
		"80": true, "8080,80": true, "1000-2000": true, "all": true, "auto": true, "192.0.2.1/8080": true, "~8080": true,
	} {
		if got := bindsBelow(ports, 1024); got != want {
			t.Errorf("%q: %v", ports, got)
		}
	}
}
