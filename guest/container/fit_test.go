package container

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// An idle group has no weight of its own, and its shares again afterwards.
func TestIdleWithoutWeight(t *testing.T) {
	for _, test := range []struct {
		idle   *int64
		weight uint64
	}{{nil, 59}, {new(int64(0)), 59}, {new(int64(1)), 0}} {
		group := &cgroups.Cgroup{Resources: &cgroups.Resources{CPUIdle: test.idle, CpuShares: 512, CpuWeight: 59}}
		idleWithoutWeight(group)
		if got := group.Resources.CpuWeight; got != test.weight {
			t.Errorf("idle %v: weight %d, want %d", test.idle, got, test.weight)
		}
		if got := group.Resources.CpuShares; (got == 0) != (test.weight == 0) {
			t.Errorf("idle %v: shares %d", test.idle, got)
		}
	}
	idleWithoutWeight(nil)
	idleWithoutWeight(&cgroups.Cgroup{})
}

// A policy is for nodes that the guest has, where its kernel has policies.
func TestFitMemoryPolicy(t *testing.T) {
	r := &Runtime{log: slog.New(slog.DiscardHandler)}
	withNodes := filepath.Join(t.TempDir(), "online")
	if err := os.WriteFile(withNodes, []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		nodes string
		file  string
		kept  bool
	}{
		{"0", withNodes, true},
		{"", withNodes, true},
		{"0-1", withNodes, false},
		{"1", withNodes, false},
		{"0", withNodes + "none", false},
		{"", withNodes + "none", false},
	} {
		nodes, err := configs.ToCPUSet(test.nodes)
		if err != nil {
			t.Fatal(err)
		}
		config := &configs.Config{MemoryPolicy: &configs.LinuxMemoryPolicy{Nodes: nodes}}
		r.fitMemoryPolicy("id", config, test.file)
		if (config.MemoryPolicy != nil) != test.kept {
			t.Errorf("policy for nodes %q with %s: kept %v, want %v", test.nodes, test.file, config.MemoryPolicy != nil, test.kept)
		}
	}
	r.fitMemoryPolicy("id", &configs.Config{}, withNodes)
}
