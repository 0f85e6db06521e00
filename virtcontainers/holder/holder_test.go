package holder_test

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers/holder"
)

func TestNeeded(t *testing.T) {
	joined := func(kind specs.LinuxNamespaceType) specs.LinuxNamespace {
		return specs.LinuxNamespace{Type: kind, Path: "/proc/1/ns/x"}
	}
	for _, test := range []struct {
		namespaces []specs.LinuxNamespace
		want       bool
	}{
		{nil, false},
		{[]specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}, {Type: specs.UserNamespace}, {Type: specs.NetworkNamespace}}, false},
		{[]specs.LinuxNamespace{joined(specs.NetworkNamespace), joined(specs.UTSNamespace), {Type: specs.PIDNamespace}}, true},
		{[]specs.LinuxNamespace{joined(specs.PIDNamespace), joined(specs.IPCNamespace), joined(specs.UTSNamespace)}, false},
		{[]specs.LinuxNamespace{joined(specs.PIDNamespace), {Type: specs.IPCNamespace}}, true},
	} {
		if got := holder.Needed(test.namespaces); got != test.want {
			t.Errorf("%v: %v", test.namespaces, got)
		}
	}
}
