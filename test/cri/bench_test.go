//go:build vm

package cri

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkFrontEnds measures, with each handler alternately, how long
// RunPodSandbox takes until the pod is ready on its network, the start of a
// container in it, and an exec; and what the processes of a pod of one container
// take on the host, the VMM and the file server aside. It reports medians, and what
// the shim of our own takes beside runc's.
func BenchmarkFrontEnds(b *testing.B) {
	k := newKubelet(b, containerd(1))
	figures := map[string][]float64{}
	measure := func(what string, f func()) {
		begin := time.Now()
		f()
		figures[what] = append(figures[what], float64(time.Since(begin).Microseconds())/1000)
	}
	round := func(number int) {
		for _, handler := range k.handlers() {
			var p *pod
			var c *container
			config := k.podConfig(fmt.Sprintf("pod%d-%s", number, handler))
			measure("pod-"+handler+"-ms", func() { p = k.run(handler, config) })
			measure("start-"+handler+"-ms", func() { c = p.start("main", "sleep 100000") })
			measure("exec-"+handler+"-ms", func() { c.output("true") })
			count, pss, shim := k.overhead()
			figures["processes-"+handler] = append(figures["processes-"+handler], float64(count))
			figures["pss-"+handler+"-MiB"] = append(figures["pss-"+handler+"-MiB"], pss)
			figures["shim-pss-"+handler+"-MiB"] = append(figures["shim-pss-"+handler+"-MiB"], shim)
			p.remove()
		}
	}
	round(0) // fills the page cache
	clear(figures)
	for number := 1; b.Loop(); number++ {
		round(number)
	}
	b.ReportMetric(0, "ns/op") // of all together: says nothing
	for what, values := range figures {
		b.ReportMetric(middle(values), what)
	}
	for _, what := range []string{"pod-%s-ms", "start-%s-ms", "exec-%s-ms", "pss-%s-MiB"} {
		ratio := middle(figures[fmt.Sprintf(what, shimHandler)]) / middle(figures[fmt.Sprintf(what, handler)])
		b.ReportMetric(ratio, strings.Split(what, "-")[0]+"-shim/oci")
	}
}

// overhead counts the processes of the only pod that is neither its VMM nor its
// file server, and adds up their proportional memory, in MiB; shim is what
// containerd's shim alone has of it.
func (k *kubelet) overhead() (count int, mebibytes, shim float64) {
	k.t.Helper()
	for _, p := range k.h.Processes() {
		if !slices.ContainsFunc([]string{"containerd-shim", "kata-runtime supervisor", "kata-runtime stand-in", "kata-holder"},
			func(name string) bool { return strings.Contains(p.Command, name) }) {
			continue
		}
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
		k.must("read a process's memory", err)
		for line := range strings.Lines(string(rollup)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Pss:" {
				kibibytes, err := strconv.Atoi(fields[1])
				k.must("read a process's memory", err)
				mebibytes += float64(kibibytes) / 1024
				if strings.Contains(p.Command, "containerd-shim") {
					shim += float64(kibibytes) / 1024
				}
			}
		}
		count++
	}
	return count, mebibytes, shim
}

// middle returns the median.
func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
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
