package main

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"
)

// part is what a start spends one after the other with something.
type part struct {
	name string
	took time.Duration
}

// Parts that a bare boot has too.
const (
	vmmPart    = "VMM's start"
	kernelPart = "kernel, up to PID 1"
)

var errStages = errors.New("the runtime's log lacks stages of a cold start")

// coldPath takes a cold start to pieces that follow each other, by the stages that its log
// tells: what goes on beside the boot is in none. The last is what no stage is of, so that
// all together are the whole.
func coldPath(stages []stage, whole time.Duration) ([]part, error) {
	seen := make(map[string]stage) // the last of each name: networks are connected twice
	for _, s := range stages {
		seen[s.Name] = s
	}
	for _, name := range []string{
		"prepare host", "start VMM", "boot kernel", "start agent", "set up pod", "create container", "start container", "run program", "remove",
	} {
		if _, there := seen[name]; !there {
			return nil, fmt.Errorf("%w: %s", errStages, name)
		}
	}
	end := func(name string) float64 { return seen[name].Begin + seen[name].Duration }
	var parts []part
	rest := whole
	add := func(name string, ms float64) {
		took := time.Duration(ms * float64(time.Millisecond))
		parts = append(parts, part{name, took})
		rest -= took
	}
	add("the host's preparation: bundle, supervisor, helpers", seen["prepare host"].Duration)
	add("turn", seen["start VMM"].Begin)
	add(vmmPart, seen["start VMM"].Duration)
	add(kernelPart, end("boot kernel")-end("start VMM"))
	add("agent's start and dial", end("start agent")-end("boot kernel"))
	add("pod's set-up: identity, share", end("set up pod")-end("start agent"))
	add("network", seen["create container"].Begin-end("set up pod"))
	add("container's creation", seen["create container"].Duration)
	add("between creation and start: hooks, pid file", seen["start container"].Begin-end("create container"))
	add("container's start", seen["start container"].Duration)
	add("program, its end and output", end("run program")-end("start container"))
	add("removal: machine's end, state", end("remove")-end("run program"))
	return append(parts, part{"the command's own start and end", rest}), nil
}

// printColdPath prints the medians of each part beside what a bare boot takes for the same,
// and that they are all of it. vmm are starts of a bare QEMU that boots nothing.
func printColdPath(runs [][]part, kata, bare, vmm []time.Duration) error {
	whole, _, _ := median(kata)
	base, _, _ := median(bare)
	empty, _, _ := median(vmm)
	fmt.Println("\nWhere the time of kata-runtime run goes, medians of parts that follow each other, ms")
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\t\tbare boot\tmore than that\t")
	row := func(name string, took, bare time.Duration) {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t\n", name, took.Milliseconds(), bare.Milliseconds(), (took - bare).Milliseconds())
	}
	var sum time.Duration
	for i, p := range runs[0] {
		var times []time.Duration
		for _, parts := range runs {
			times = append(times, parts[i].took)
		}
		middle, _, _ := median(times)
		sum += middle
		row(p.name, middle, map[string]time.Duration{vmmPart: empty, kernelPart: base - empty}[p.name])
	}
	row("together", sum, base)
	row("measured", whole, base)
	return table.Flush()
}
