//go:build vm

package cri

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// TestPool runs a pod in a machine that was prepared for containerd's shim, and leaves
// nothing of it.
func TestPool(t *testing.T) {
	k := newKubelet(t, containerd(1))
	k.h.ReapOrphans("containerd-shim", "qemu-system-x86", "virtiofsd") // of prepared machines, which are nobody's children
	dir := "/run/kata-pool-" + k.h.ID()
	k.configureRuntime(fmt.Sprintf("[factory]\npool_size = 1\nmax_load = 0\nmin_memory = 0\ndir = %q\n", dir))
	factory := func(args ...string) string {
		return k.h.Must(append([]string{"--config", k.runtimeConfig(), "factory"}, args...)...)
	}
	defer func() {
		factory("destroy")
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}()
	factory("init", "--for", "shim")
	p := k.run(shimHandler, k.podConfig("pool"))
	c := p.start("main", "hostname; echo ready; sleep 100000", limits).await("ready").await("pool")
	if got := c.output("ip -o -4 address show eth0"); got == "" {
		t.Error("the pod has no address")
	}
	var status struct {
		Counters map[string]struct {
			Hits   int
			Misses map[string]int
		}
	}
	if err := json.Unmarshal([]byte(factory("status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	if counts := status.Counters["shim"]; counts.Hits != 1 || len(counts.Misses) != 0 {
		t.Errorf("pods and the pool: %+v, want one that has taken a machine", counts)
	}
	p.remove()
}
