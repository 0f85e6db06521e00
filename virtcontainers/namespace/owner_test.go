package namespace_test

import (
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers/namespace"
)

func TestOwner(t *testing.T) {
	self := os.Getpid()
	const nobody = 1 << 30 // no pid is as large
	users := namespace.OfProcess(self, specs.UserNamespace)
	for _, test := range []struct {
		name    string
		joined  specs.LinuxNamespace
		members []namespace.Member
		want    string
	}{
		{"the first", specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/self/ns/net"}, []namespace.Member{
			{ID: "gone", PID: nobody}, {ID: "sandbox", PID: self}, {ID: "c1", PID: self},
		}, "sandbox"},
		{"none", specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/proc/self/ns/pid"}, []namespace.Member{{ID: "gone", PID: nobody}}, ""},
		{"a user namespace that was made for it", specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/self/ns/user"}, []namespace.Member{
			{ID: "c1", PID: nobody}, {ID: "sandbox", PID: nobody, Users: users},
		}, "sandbox"},
		{"another type", specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/proc/self/ns/user"}, []namespace.Member{
			{ID: "sandbox", PID: self, Users: users},
		}, ""},
	} {
		got, err := namespace.Owner(test.joined, slices.Values(test.members))
		if err != nil || got != test.want {
			t.Errorf("%s: %q, %v; want %q", test.name, got, err, test.want)
		}
	}
	if _, err := namespace.Owner(specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/nonexistent"}, slices.Values([]namespace.Member(nil))); err == nil {
		t.Error("found what is not there")
	}
}

func TestUsersPath(t *testing.T) {
	for want, spec := range map[string]*specs.Spec{
		"":   {},
		"/u": {Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: "/p"}, {Type: specs.UserNamespace, Path: "/u"}}}},
	} {
		if got := namespace.UsersPath(spec); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
