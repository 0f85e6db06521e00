//go:build vm

package cri

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// baseVariable names a build of another commit of this project, as test/base.sh
// makes it, that BenchmarkFrontEnds compares with.
const baseVariable = "KATA_BENCH_BASE"

// baseHandler is the kata-runtime of that build, by runc's shim.
const baseHandler = "kata-base"

// compared is a containerd that has a handler more where there is a build to
// compare with.
type compared struct {
	containerd
	base string
}

func (c compared) handlers() []string {
	if c.base == "" {
		return c.containerd.handlers()
	}
	return append(c.containerd.handlers(), baseHandler)
}

// settings gives the other build a configuration of its own, as another commit
// may not know all of this one's, and its own directory for the state of
// containers.
func (c compared) settings(k *kubelet, networks string) string {
	text := c.containerd.settings(k, networks)
	if c.base == "" {
		return text
	}
	config, script := filepath.Join(k.dir, "base.toml"), filepath.Join(k.dir, "kata-base")
	k.write(config, "")
	k.must("write a script", os.WriteFile(script, []byte("#!/bin/sh\nunset KATA_CONF_FILE\nexec "+c.base+"/bin/kata-runtime --config "+config+" \"$@\"\n"), 0o700))
	table := `plugins."io.containerd.grpc.v1.cri".containerd.runtimes.` + baseHandler
	return text + "[" + table + "]\n  runtime_type = \"io.containerd.runc.v2\"\n[" + table + ".options]\n  BinaryName = \"" +
		script + "\"\n  Root = \"/run/containerd/" + baseHandler + "\"\n"
}

// The steps of BenchmarkFrontEnds, in its order. The first container and the first
// exec find a guest that has never done such a thing.
const (
	podStep    = "RunPodSandbox"
	firstStart = "first create, start"
	nextStart  = "create, start"
	firstExec  = "first exec"
	nextExec   = "exec"
)

func steps() []string { return []string{podStep, firstStart, nextStart, firstExec, nextExec} }

// BenchmarkFrontEnds measures, with each handler alternately, how long
// RunPodSandbox takes until the pod is ready on its network, the start of
// containers in it, and execs; and what the processes of a pod of one container
// take on the host, the VMM and the file server aside. It prints medians, with the
// processor's time that the VMM took, and what the shim of our own takes beside
// kata-runtime by runc's shim: of this build, and of the one that baseVariable
// names.
func BenchmarkFrontEnds(b *testing.B) {
	k := newKubelet(b, compared{containerd(1), os.Getenv(baseVariable)})
	took, vmm := map[string][]float64{}, map[string][]float64{} // by handler and step
	figures := map[string][]float64{}
	var p *pod
	measure := func(handler, step string, f func()) {
		before := 0.0
		if step != podStep {
			before = p.vmmTime()
		}
		begin := time.Now()
		f()
		took[handler+step] = append(took[handler+step], time.Since(begin).Seconds()*1000)
		vmm[handler+step] = append(vmm[handler+step], p.vmmTime()-before)
	}
	round := func(number int) {
		for _, handler := range k.handlers() {
			var c *container
			config := k.podConfig(fmt.Sprintf("pod%d-%s", number, handler))
			measure(handler, podStep, func() { p = k.run(handler, config) })
			measure(handler, firstStart, func() { c = p.start("main", "sleep 100000") })
			measure(handler, firstExec, func() { c.output("true") })
			count, pss, shim := k.overhead()
			figures["processes-"+handler] = append(figures["processes-"+handler], float64(count))
			figures["pss-"+handler+"-MiB"] = append(figures["pss-"+handler+"-MiB"], pss)
			figures["shim-pss-"+handler+"-MiB"] = append(figures["shim-pss-"+handler+"-MiB"], shim)
			for more := range 3 {
				measure(handler, nextStart, func() { p.start(fmt.Sprintf("more%d", more), "sleep 100000") })
				measure(handler, nextExec, func() { c.output("true") })
			}
			p.remove()
		}
	}
	round(0) // fills the page cache
	clear(took)
	clear(vmm)
	clear(figures)
	for number := 1; b.Loop(); number++ {
		round(number)
	}
	b.ReportMetric(0, "ns/op") // of all together: says nothing
	for what, values := range figures {
		b.ReportMetric(middle(values), what)
	}
	b.ReportMetric(middle(figures["pss-"+shimHandler+"-MiB"])/middle(figures["pss-"+handler+"-MiB"]), "pss-shim/oci")
	k.must("print", printSteps(k.handlers(), took, vmm))
}

// printSteps prints a table of medians in ms: the time, and in brackets the
// processor's that the VMM took.
func printSteps(handlers []string, took, vmm map[string][]float64) error {
	fmt.Println()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	compare := handlers[slices.Index(handlers, handler):] // what is compared with the shim
	compare = slices.DeleteFunc(slices.Clone(compare), func(name string) bool { return name == shimHandler })
	for _, name := range handlers {
		fmt.Fprintf(table, "\t%s", name)
	}
	for _, name := range compare {
		fmt.Fprintf(table, "\t%s/%s", shimHandler, name)
	}
	fmt.Fprintln(table, "\t")
	for _, step := range steps() {
		fmt.Fprint(table, step)
		for _, name := range handlers {
			fmt.Fprintf(table, "\t%.0f (%.0f)", middle(took[name+step]), middle(vmm[name+step]))
		}
		for _, name := range compare {
			fmt.Fprintf(table, "\t%.2f (%.2f)", middle(took[shimHandler+step])/middle(took[name+step]),
				middle(vmm[shimHandler+step])/middle(vmm[name+step]))
		}
		fmt.Fprintln(table, "\t")
	}
	return table.Flush()
}

// vmmTime is the processor's time, in ms, that the pod's VMM has taken; 0 without
// one.
func (p *pod) vmmTime() (milliseconds float64) {
	p.t.Helper()
	for _, vmm := range p.h.Processes() {
		if !strings.Contains(vmm.Command, "qemu-system") || !strings.Contains(vmm.Command, p.id) {
			continue
		}
		// Of each thread: the process's own file counts only its first one's.
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", vmm.PID))
		p.must("find a VMM's threads", err)
		for _, path := range threads {
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // the thread has ended
			}
			p.must("read a thread's time", err)
			nanoseconds, _, _ := strings.Cut(string(text), " ")
			taken, err := strconv.ParseFloat(nanoseconds, 64)
			p.must("read a thread's time", err)
			milliseconds += taken / 1e6
		}
	}
	return milliseconds
}

// overhead counts the processes of the only pod that is neither its VMM nor its
// file server, and adds up their proportional memory, in MiB; shim is what
// containerd's shim alone has of it.
func (k *kubelet) overhead() (count int, mebibytes, shim float64) {
	k.t.Helper()
	for _, p := range k.h.Processes() {
		if !slices.ContainsFunc([]string{"containerd-shim", "kata-runtime supervisor", "kata-runtime stand-in", "kata-holder", "kata-reader"},
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
