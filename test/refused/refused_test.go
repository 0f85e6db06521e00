package refused

import (
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	const record = `5,2134,39680430393,-;audit: type=1326 audit(1796029024.101:1021): auid=4294967295 uid=2000011452 gid=2000011452 ses=4294967295 ` +
		`pid=7826 comm="qemu-system-x86" exe="/usr/bin/qemu-system-x86_64" sig=0 arch=c000003e syscall=425 compat=0 ip=0x7fd33a238447 code=0x50000` + "\n"
	want := Call{Program: "/usr/bin/qemu-system-x86_64", Number: 425}
	if got, ok := parse(record); !ok || got != want {
		t.Errorf("%+v, %t, want %+v", got, ok, want)
	}
	for _, other := range []string{"", "6,1,2,-;eth0: renamed\n", `5,1,2,-;audit: type=1326 audit(1:2): exe="/a" sig=x syscall=`} {
		if got, ok := parse(other); ok {
			t.Errorf("of %q: %+v", other, got)
		}
	}
}

func TestUnlisted(t *testing.T) {
	expected := []Call{
		{"/usr/bin/qemu-system-x86_64", 425, 0},
		{"/usr/bin/qemu-system-x86_64", 435, 0},
		{"/tmp/probe/qemu-system-x86_64", 165, 31},
		{"/usr/bin/chrome", 1, 31},
		{"/somewhere/else/bin/kata-runtime", 1, 0},
		{"/usr/lib/qemu/virtiofsd", 435, 0},
	}
	wanted := []Call{
		{"/usr/bin/qemu-system-x86_64", 441, 0},
		{"/usr/bin/qemu-system-x86_64", 425, 31},
		{"/repository/bin/kata-runtime", 1, 0},
		{"/usr/lib/qemu/virtiofsd", 157, 0},
	}
	if got := Unlisted(slices.Concat(expected, wanted), "/repository/bin"); !slices.Equal(got, wanted) {
		t.Errorf("%v, want %v", got, wanted)
	}
}
