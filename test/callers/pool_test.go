//go:build vm

package callers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestPodmanPool runs a container of podman's in a machine that was prepared before, and
// leaves nothing of it.
func TestPodmanPool(t *testing.T) {
	p := newPodman(t)
	h := p.h
	config, dir := h.File("pool.toml"), "/run/kata-pool-"+h.ID()
	text := fmt.Sprintf("[factory]\npool_size = 1\nmax_load = 0\nmin_memory = 0\ndir = %q\n", dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	factory := &caller{t: t, h: h, command: []string{runtimePath(t), "--config", config, "factory"}}
	defer func() {
		factory.must("destroy")
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}()
	factory.must("init")
	p.command = append(p.command, "--runtime-flag", "config="+config)
	p.want(3, "named\nof the host\n", "", p.container("run", "--rm", "--hostname", "named", "--volume", filepath.Dir(config)+":/data:ro",
		"--memory", "256m", image, "sh", "-c", "hostname; test -f /data/pool.toml && echo of the host; exit 3")...)
	factory.want(0, "~supervisor: 1 taken, cold: none", "", "status")
}
