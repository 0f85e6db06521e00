package virtiofsd

import "testing"

// FuzzVersion: whatever a program says.
func FuzzVersion(f *testing.F) {
	f.Add("virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7)\n")
	f.Add("/usr/libexec/virtiofsd version 1.2\n")
	f.Add("virtiofsd backend 1.13.0\n")
	f.Fuzz(func(t *testing.T, text string) {
		kind, version, err := parseVersion(text)
		if (err == nil) != (kind == C || kind == Rust) || (err == nil) != (version != "") {
			t.Errorf("%q, %q, %v", kind, version, err)
		}
	})
}
