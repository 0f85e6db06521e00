//go:build vm

package cri

import (
	"fmt"
	"slices"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkRunPodSandbox measures how long RunPodSandbox takes until the pod is
// ready on its network, with each handler alternately, and reports the medians
// and their ratio.
func BenchmarkRunPodSandbox(b *testing.B) {
	k := newKubelet(b, containerd(1))
	took := map[string][]time.Duration{}
	round := func(number int) {
		for _, handler := range k.handlers() {
			config := k.podConfig(fmt.Sprintf("pod%d-%s", number, handler))
			request := &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: handler}
			begin := time.Now()
			answer := do(k, k.RunPodSandbox, request)
			took[handler] = append(took[handler], time.Since(begin))
			(&pod{kubelet: k, config: config, id: answer.PodSandboxId}).remove()
		}
	}
	round(0) // fills the page cache
	clear(took)
	for number := 1; b.Loop(); number++ {
		round(number)
	}
	b.ReportMetric(0, "ns/op") // of both together: says nothing
	b.ReportMetric(median(took["runc"]), "runc-ms")
	b.ReportMetric(median(took["kata"]), "kata-ms")
	b.ReportMetric(median(took["kata"])/median(took["runc"]), "ratio")
}

// median returns the middle in milliseconds.
func median(took []time.Duration) float64 {
	sorted := slices.Sorted(slices.Values(took))
	return float64(sorted[len(sorted)/2].Milliseconds())
}

// BenchmarkCRIO measures what a pod and its container take with CRI-O.
func BenchmarkCRIO(b *testing.B) {
	k := newKubelet(b, &crio{})
	took := map[string][]time.Duration{}
	measure := func(what string, f func()) {
		begin := time.Now()
		f()
		took[what] = append(took[what], time.Since(begin))
	}
	round := func(number int) {
		var p *pod
		var c *container
		config := k.podConfig(fmt.Sprintf("pod%d", number))
		measure("pod", func() { p = k.run(handler, config) })
		measure("container", func() { c = p.start("main", "sleep 100000") })
		measure("exec", func() { c.output("true") })
		p.remove()
	}
	round(0) // fills the page cache
	clear(took)
	for number := 1; b.Loop(); number++ {
		round(number)
	}
	b.ReportMetric(0, "ns/op") // of all together: says nothing
	for what, times := range took {
		b.ReportMetric(median(times), what+"-ms")
	}
}
