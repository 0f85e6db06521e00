package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// stage is one line of the runtime's debug log that tells how long a part of a
// start took. Stages overlap.
type stage struct {
	Msg      string
	Name     string
	Begin    float64 `json:"begin_ms"`
	Duration float64 `json:"duration_ms"`
}

// starts compares the time from a command to the end of a program that does
// nothing.
func (b *bench) starts(ctx context.Context, runs int) error {
	dir, err := b.bundle("/bin/true")
	if err != nil {
		return err
	}
	if err := b.learnMachine(ctx); err != nil {
		return err
	}
	boot, err := b.newBareBoot()
	if err != nil {
		return err
	}
	var bare, vmm, kata, runc []time.Duration
	var all []stage
	var paths [][]part
	for i := range runs + 1 {
		if i == 1 { // the first round fills the page cache and is not counted
			bare, vmm, kata, runc, all, paths = nil, nil, nil, nil, nil, nil
		}
		log := filepath.Join(b.dir, fmt.Sprintf("stages-%d.json", i))
		t, err := timed(boot(ctx))
		if err != nil {
			return err
		}
		bare = append(bare, t)
		empty := boot(ctx)
		empty.Args = append(empty.Args, "-S", "-monitor", "stdio")
		empty.Stdin = strings.NewReader("quit\n")
		if t, err = timed(empty); err != nil {
			return err
		}
		vmm = append(vmm, t)
		if t, err = timed(b.kata(ctx, "--debug", "--log", log, "--log-format", "json", "run", "-b", dir, b.id())); err != nil {
			return err
		}
		kata = append(kata, t)
		stages, err := readStages(log)
		if err != nil {
			return err
		}
		path, err := coldPath(stages, t)
		if err != nil {
			return err
		}
		all, paths = append(all, stages...), append(paths, path)
		if t, err = timed(b.runc(ctx, "run", "-b", dir, b.id())); err != nil {
			return err
		}
		runc = append(runc, t)
	}
	if err := printStarts(bare, kata, runc); err != nil {
		return err
	}
	if err := printStages(all); err != nil {
		return err
	}
	return printColdPath(paths, kata, bare, vmm)
}

func printStarts(bare, kata, runc []time.Duration) error {
	base, _, _ := median(bare)
	fmt.Printf("\nCold start of true, median of %d, alternating\n", len(bare))
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tms\tmin\tmax\tratio to the bare boot\t")
	for _, row := range []struct {
		name  string
		times []time.Duration
	}{{"bare QEMU boot, init exits", bare}, {"kata-runtime run", kata}, {"runc run", runc}} {
		middle, low, high := median(row.times)
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.2f\t\n", row.name,
			middle.Milliseconds(), low.Milliseconds(), high.Milliseconds(), float64(middle)/float64(base))
	}
	return table.Flush()
}

func printStages(stages []stage) error {
	fmt.Println("\nStages of kata-runtime run, medians; they overlap")
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tbegin, ms\tduration, ms\t")
	var order []string
	begin, duration := map[string][]float64{}, map[string][]float64{}
	for _, s := range stages {
		if _, known := begin[s.Name]; !known {
			order = append(order, s.Name)
		}
		begin[s.Name] = append(begin[s.Name], s.Begin)
		duration[s.Name] = append(duration[s.Name], s.Duration)
	}
	for _, name := range order {
		b, _, _ := median(begin[name])
		d, _, _ := median(duration[name])
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t\n", name, b, d)
	}
	return table.Flush()
}

// readStages finds the stages in a log of JSON objects.
func readStages(path string) ([]stage, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the runtime's log: %w", err)
	}
	defer file.Close()
	decoder := json.NewDecoder(bufio.NewReader(file))
	var stages []stage
	for {
		var s stage
		switch err := decoder.Decode(&s); {
		case errors.Is(err, io.EOF):
			return stages, nil
		case err != nil:
			return nil, fmt.Errorf("read the runtime's log: %w", err)
		case s.Msg == "stage":
			stages = append(stages, s)
		}
	}
}
