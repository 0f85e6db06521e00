package container

import (
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
)

// pausing is a specification as a pod's first container has it.
func pausing() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"/pause"}, Cwd: "/"},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace, Path: protocol.SandboxNamespace},
				{Type: specs.UTSNamespace, Path: protocol.SandboxNamespace},
			},
			Sysctl: map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"},
		},
	}
}

func TestMaySleep(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*specs.Spec)
		want   bool
	}{
		"pause":              {func(*specs.Spec) {}, true},
		"terminal":           {func(s *specs.Spec) { s.Process.Terminal = true }, false},
		"hook":               {func(s *specs.Spec) { s.Hooks = &specs.Hooks{StartContainer: make([]specs.Hook, 1)} }, false},
		"the host's hook":    {func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: make([]specs.Hook, 1)} }, true},
		"domain name":        {func(s *specs.Spec) { s.Domainname = "d" }, false},
		"the guest's pids":   {func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, false},
		"another's pids":     {func(s *specs.Spec) { s.Linux.Namespaces[0].Path = protocol.ContainerNamespace("c") }, false},
		"its own IPC":        {func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "" }, false},
		"its own UTS":        {func(s *specs.Spec) { s.Linux.Namespaces[3].Path = "" }, false},
		"users":              {func(s *specs.Spec) { s.Linux.Namespaces[1].Type = specs.UserNamespace }, false},
		"sysctl of IPC":      {func(s *specs.Spec) { s.Linux.Sysctl["kernel.shmmax"] = "1" }, false},
		"sysctl of no name":  {func(s *specs.Spec) { s.Linux.Sysctl["net/../x"] = "1" }, false},
		"no IPC, no network": {func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] }, true},
	} {
		spec := pausing()
		test.change(spec)
		if got := maySleep(spec); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// What is changed while there is no process holds for the one that is made later,
// as do the rules for devices that no change names.
func TestUpdateAsleep(t *testing.T) {
	spec := pausing()
	spec.Linux.CgroupsPath = "/kata/c"
	spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}
	c := &container{id: "c", ready: true, spec: spec, sleep: &sleep{}}
	r := &Runtime{log: slog.New(slog.DiscardHandler), containers: map[string]*container{"c": c}}
	if err := r.Update(t.Context(), "c", []byte(`{"pids":{"limit":7}}`)); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(spec.Linux.Resources)
	if want := `{"devices":[{"allow":false,"access":"rwm"}],"pids":{"limit":7}}`; err != nil || string(text) != want {
		t.Errorf("resources %s, want %s", text, want)
	}
	if err := r.Update(t.Context(), "c", []byte(`{"pids":7}`)); err == nil {
		t.Error("nonsense was accepted")
	}
}
