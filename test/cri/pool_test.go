//go:build vm

package cri

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"
)

// TestPool runs a pod in a machine that was prepared for containerd's shim, and leaves
// nothing of it.
func TestPool(t *testing.T) {
	k := newKubelet(t, containerd(1))
	factory, destroy := k.withPool()
	defer destroy()
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

// withPool configures a pool of one machine, and returns the command that manages it
// and what ends it.
func (k *kubelet) withPool() (factory func(args ...string) string, destroy func()) {
	k.t.Helper()
	k.h.ReapOrphans("containerd-shim", "qemu-system-x86", "virtiofsd", "kata-fs", "kata-vsock", "kata-reader", "kata-device") // of prepared machines, which are nobody's children
	dir := "/run/kata-pool-" + k.h.ID()
	k.configureRuntime(fmt.Sprintf("[factory]\npool_size = 1\nmax_load = 0\nmin_memory = 0\ndir = %q\n", dir))
	factory = func(args ...string) string {
		return k.h.Must(append([]string{"--config", k.runtimeConfig(), "factory"}, args...)...)
	}
	return factory, func() {
		factory("destroy")
		if _, err := os.Stat(dir); err == nil {
			k.t.Errorf("%s is left", dir)
		}
	}
}

// BenchmarkPool measures how long a pod takes that finds a prepared machine, beside one
// of runc's; medians, with the time of a pod's removal and of the next machine's boot
// between them left out.
func BenchmarkPool(b *testing.B) {
	k := newKubelet(b, containerd(1))
	factory, destroy := k.withPool()
	defer destroy()
	took := map[string][]float64{} // ms, by handler
	round := func(number int) {
		for _, name := range []string{"runc", shimHandler} {
			factory("init", "--for", "shim") // returns when there is one
			config := k.podConfig(fmt.Sprintf("pod%d-%s", number, name))
			begin := time.Now()
			p := k.run(name, config)
			took[name] = append(took[name], time.Since(begin).Seconds()*1000)
			p.remove()
		}
	}
	round(0) // fills the page cache
	clear(took)
	for number := 1; b.Loop(); number++ {
		round(number)
	}
	b.ReportMetric(0, "ns/op") // of all together: says nothing
	runc, pool := middle(took["runc"]), middle(took[shimHandler])
	fmt.Printf("\n%s: %.0f ms by runc, %.0f ms by the shim with a prepared machine: %.1f\n", podStep, runc, pool, pool/runc)
}
