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
	median := func(handler string) float64 {
		sorted := slices.Sorted(slices.Values(took[handler]))
		return float64(sorted[len(sorted)/2].Milliseconds())
	}
	b.ReportMetric(0, "ns/op") // of both together: says nothing
	b.ReportMetric(median("runc"), "runc-ms")
	b.ReportMetric(median("kata"), "kata-ms")
	b.ReportMetric(median("kata")/median("runc"), "ratio")
}
