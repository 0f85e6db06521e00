package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
)

// networkStarts compares cold starts of a program that does nothing: in a
// machine without a NIC, in one whose pod's network namespace is empty, which has
// a spare NIC, and in one that is on a network.
func (b *bench) networkStarts(ctx context.Context, runs int) (err error) {
	w, err := newWire()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	unconnected, err := b.unconnectedConfig(ctx)
	if err != nil {
		return err
	}
	alone, err := b.bundle("/bin/true")
	if err != nil {
		return err
	}
	spec := bundle.Spec("/bin/true")
	bundle.Namespace(spec, specs.NetworkNamespace).Path = w.path()
	connected, err := b.bundleOf(spec)
	if err != nil {
		return err
	}
	starts := []*networkStart{
		{name: "no NIC (internetworking_model none)", bundle: alone, flags: []string{"--config", unconnected}},
		{name: "a new, empty namespace", bundle: alone},
		{name: "veth, IPv4, IPv6, default routes", bundle: connected},
	}
	for i, s := range starts {
		s.log = filepath.Join(b.dir, fmt.Sprintf("network-stages%d.json", i))
	}
	for round := range runs + 1 {
		for _, s := range starts {
			args := append([]string{"--debug", "--log", s.log, "--log-format", "json"}, s.flags...)
			took, err := timed(b.kata(ctx, append(args, "run", "-b", s.bundle, b.id())...))
			if err != nil {
				return err
			}
			if round > 0 {
				s.times = append(s.times, took)
			} else if err := os.Remove(s.log); err != nil { // the first round fills the page cache
				return err
			}
		}
	}
	return printNetworkStarts(starts)
}

// networkStart is a way to start a container, and how long it took each time.
type networkStart struct {
	name, bundle, log string
	flags             []string
	times             []time.Duration
}

// unconnectedConfig writes the configuration that is in effect, but that no
// network is connected.
func (b *bench) unconnectedConfig(ctx context.Context) (string, error) {
	text, err := output(b.kata(ctx, "env"))
	if err != nil {
		return "", err
	}
	const model = `internetworking_model = "tcfilter"`
	if !strings.Contains(text, model) {
		return "", errors.New("the configuration connects networks by another way than tcfilter, the default")
	}
	path := filepath.Join(b.dir, "unconnected.toml")
	return path, os.WriteFile(path, []byte(strings.Replace(text, model, `internetworking_model = "none"`, 1)), 0o600)
}

// differences subtracts from each value the one beside it.
func differences(values, base []time.Duration) []time.Duration {
	all := make([]time.Duration, len(values))
	for i := range values {
		all[i] = values[i] - base[i]
	}
	return all
}

func printNetworkStarts(starts []*networkStart) error {
	fmt.Printf("\nCold start of true by the network that it has, median of %d, alternating;\n"+
		"added is the median of what a start took more than that without NIC beside it\n", len(starts[0].times))
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tms\tmin\tmax\tadded\t")
	for _, s := range starts {
		middle, low, high := median(s.times)
		added, _, _ := median(differences(s.times, starts[0].times))
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t\n", s.name,
			middle.Milliseconds(), low.Milliseconds(), high.Milliseconds(), added.Milliseconds())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Println("\nDuration of their stages, ms, medians; they overlap")
	table = tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tno NIC\tempty\tveth\t")
	var order []string
	durations := map[string][][]float64{} // by stage, then by start
	for i, s := range starts {
		stages, err := readStages(s.log)
		if err != nil {
			return err
		}
		for _, stage := range stages {
			if durations[stage.Name] == nil {
				order = append(order, stage.Name)
				durations[stage.Name] = make([][]float64, len(starts))
			}
			durations[stage.Name][i] = append(durations[stage.Name][i], stage.Duration)
		}
	}
	for _, name := range order {
		fmt.Fprintf(table, "%s\t", name)
		for _, values := range durations[name] {
			if len(values) == 0 {
				fmt.Fprint(table, "-\t")
				continue
			}
			middle, _, _ := median(values)
			fmt.Fprintf(table, "%.0f\t", middle)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}
