package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"
)

// calls compares what is called while a pod runs: programs in its sandbox, and
// containers that join it.
func (b *bench) calls(ctx context.Context, runs int) (err error) {
	var times [2][][]time.Duration // by runtime, then as callNames
	var pods []*pod
	defer func() {
		for _, p := range pods {
			err = errors.Join(err, p.remove(ctx, p.id))
		}
	}()
	for i, run := range []runtime{b.kata, b.runc} {
		p, err := b.newPod(ctx, run)
		if err != nil {
			return err
		}
		pods = append(pods, p)
		times[i] = make([][]time.Duration, len(callNames()))
	}
	for round := range runs + 1 {
		for i, p := range pods {
			once, err := b.callAll(ctx, p)
			if err != nil {
				return err
			}
			if round == 0 { // fills the page caches
				continue
			}
			for call, t := range once {
				times[i][call] = append(times[i][call], t)
			}
		}
	}
	fmt.Printf("\nCalls on a running pod, ms, median of %d, alternating; containers share its namespaces\n", runs)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tkata-runtime\tmin\tmax\trunc\tratio\t")
	for call, name := range callNames() {
		ours, low, high := median(times[0][call])
		theirs, _, _ := median(times[1][call])
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%.2f\t\n", name, ours.Milliseconds(), low.Milliseconds(), high.Milliseconds(),
			theirs.Milliseconds(), float64(ours)/float64(theirs))
	}
	return table.Flush()
}

// callNames name what callAll returns, in its order.
func callNames() []string {
	return []string{
		"exec of true", "create, start", "delete --force", "create, start, delete --force", "run of true",
	}
}

// callAll makes each call once. runc's delete --force looks for the end of what
// it killed every 100 ms; run has no such wait.
func (b *bench) callAll(ctx context.Context, p *pod) ([]time.Duration, error) {
	exec, err := timed(p.run(ctx, "exec", p.id, "/bin/true"))
	if err != nil {
		return nil, err
	}
	id := b.id()
	create, err := b.quiet(p.run(ctx, "create", "-b", p.idle, id))
	if err != nil {
		return nil, err
	}
	start, err := b.quiet(p.run(ctx, "start", id))
	if err != nil {
		return nil, errors.Join(err, p.remove(ctx, id))
	}
	remove, err := b.quiet(p.run(ctx, "delete", "--force", id))
	if err != nil {
		return nil, err
	}
	run, err := timed(p.run(ctx, "run", "-b", p.brief, b.id()))
	if err != nil {
		return nil, err
	}
	return []time.Duration{exec, create + start, remove, create + start + remove, run}, nil
}
