package container

import (
	"os"
	"testing"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestDescribe: what quick.c does not know is libcontainer's.
func TestDescribe(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*configs.Config, *libcontainer.Process)
		quick  bool
	}{
		{"plain", func(*configs.Config, *libcontainer.Process) {}, true},
		{"the container's capabilities", func(_ *configs.Config, p *libcontainer.Process) { p.Capabilities = nil }, true},
		{"a home", func(_ *configs.Config, p *libcontainer.Process) { p.Env = append(p.Env, "HOME=/x") }, true},
		{"the first process", func(_ *configs.Config, p *libcontainer.Process) { p.Init = true }, false},
		{"a terminal", func(_ *configs.Config, p *libcontainer.Process) { p.ConsoleSocket = os.Stdin }, false},
		{"files", func(_ *configs.Config, p *libcontainer.Process) { p.ExtraFiles = []*os.File{os.Stdin} }, false},
		{"low limits", func(_ *configs.Config, p *libcontainer.Process) { p.LogLevel = roomyLevel }, false},
		{"no capabilities named", func(c *configs.Config, p *libcontainer.Process) { c.Capabilities, p.Capabilities = nil, nil }, false},
		{"an unknown capability", func(_ *configs.Config, p *libcontainer.Process) { p.Capabilities.Ambient = []string{"CAP_X"} }, false},
		{"seccomp", func(c *configs.Config, _ *libcontainer.Process) { c.Seccomp = &configs.Seccomp{} }, false},
		{"a user namespace", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Add(configs.NEWUSER, "") }, false},
		{"AppArmor", func(c *configs.Config, _ *libcontainer.Process) { c.AppArmorProfile = "x" }, false},
		{"its own AppArmor", func(_ *configs.Config, p *libcontainer.Process) { p.AppArmorProfile = "x" }, false},
		{"SELinux", func(c *configs.Config, _ *libcontainer.Process) { c.ProcessLabel = "x" }, false},
		{"a scheduler", func(_ *configs.Config, p *libcontainer.Process) { p.Scheduler = &specs.Scheduler{} }, false},
		{"a priority", func(c *configs.Config, _ *libcontainer.Process) { c.IOPriority = &specs.LinuxIOPriority{} }, false},
		{"a personality", func(c *configs.Config, _ *libcontainer.Process) { c.Personality = &configs.LinuxPersonality{} }, false},
		{"a memory policy", func(c *configs.Config, _ *libcontainer.Process) { c.MemoryPolicy = &configs.LinuxMemoryPolicy{} }, false},
		{"no directory", func(_ *configs.Config, p *libcontainer.Process) { p.Cwd = "" }, false},
		{"no program", func(_ *configs.Config, p *libcontainer.Process) { p.Args = nil }, false},
		{"a program with quotes", func(_ *configs.Config, p *libcontainer.Process) { p.Args = []string{`a"b`} }, false},
		{"a zero byte", func(_ *configs.Config, p *libcontainer.Process) { p.Args = append(p.Args, "a\x00b") }, false},
		{"a variable twice", func(_ *configs.Config, p *libcontainer.Process) { p.Env = []string{"A=1", "A=2"} }, false},
		{"no variable", func(_ *configs.Config, p *libcontainer.Process) { p.Env = []string{"A"} }, false},
		{"an empty home", func(_ *configs.Config, p *libcontainer.Process) { p.Env = []string{"HOME="} }, false},
		{"programs in the working directory", func(_ *configs.Config, p *libcontainer.Process) { p.Env = []string{"PATH=/bin:"} }, false},
	} {
		config := &configs.Config{Capabilities: &configs.Capabilities{}}
		process := &libcontainer.Process{
			Args: []string{"sh"}, Env: []string{"PATH=/bin"}, Cwd: "/", LogLevel: plainLevel,
			Capabilities: &configs.Capabilities{Bounding: []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}},
		}
		test.change(config, process)
		if got := describe("id", config, process) != nil; got != test.quick {
			t.Errorf("%s: without Go is %v", test.name, got)
		}
	}
	if mask, ok := capabilityMask([]string{"CAP_CHOWN", "CAP_SYS_ADMIN"}); !ok || mask != 1<<21|1 {
		t.Errorf("capabilities are %#x, %v", mask, ok)
	}
}
