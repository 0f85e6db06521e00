package modules

import "testing"

func TestParametersOf(t *testing.T) {
	const line = "console=hvc0 dummy.numdummies=0 nf-conntrack.hashsize=16 quiet a.b=\"x y.z=1\" a.flag .c=1 d.\n"
	for name, want := range map[string]string{
		"dummy": "numdummies=0", "nf_conntrack": "hashsize=16", "a": "b=\"x y.z=1\" flag",
		"console": "", "quiet": "", "y": "", "d": "", "": "c=1",
	} {
		if got := parametersOf(line, name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
