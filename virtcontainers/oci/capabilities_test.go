package oci

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestUnknownCapabilities(t *testing.T) {
	tests := []struct {
		sets *specs.LinuxCapabilities
		want string
	}{
		{nil, ""},
		{&specs.LinuxCapabilities{}, ""},
		{&specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Ambient: []string{"CAP_CHECKPOINT_RESTORE"}}, ""},
		{&specs.LinuxCapabilities{
			Bounding: []string{"KILL", "CAP_CHOWN", "cap_kill"}, Effective: []string{"KILL"}, Inheritable: []string{"CAP_FOO"},
		}, `["CAP_FOO" "KILL" "cap_kill"]`},
	}
	for _, test := range tests {
		spec := baseSpec()
		spec.Process.Capabilities = test.sets
		if got := UnknownCapabilities(spec.Process); !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("UnknownCapabilities(%+v) = %q, want %q", test.sets, got, test.want)
		}
		guest, err := Transform(spec, GuestOptions{ContainerID: "c", SharePath: "/share", BundleDir: "/bundle"})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(guest.Warnings, "\n"); !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("warnings for %+v: %q, want %q", test.sets, got, test.want)
		}
	}
	if got := UnknownCapabilities(nil); got != "" {
		t.Errorf("without a process: %q", got)
	}
}
