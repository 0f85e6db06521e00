// Command bench measures the built runtime and prints the figures as tables:
// the cold start of a container against a bare boot of the same kernel with the
// same QEMU and against runc, with the time of each stage and where all of it goes; its
// start from a pool of prepared machines and from a template, and what such a machine
// takes; many starts at once; what it adds to the start of a
// process that it is confined; the memory of each
// process and of a further container of the pod; programs and containers that
// are started in a running pod; the throughput of a container's output, input and
// files against that of plain vsock and virtiofs and against runc; work with files
// with each file server and with runc; the throughput of its
// network against plain VMs on the same tap and against runc; what the network
// adds to a cold start.
//
// What is compared runs alternately, so that a busy machine is slow for all.
// Every figure is a median. A system call that a confined process is refused meanwhile,
// and that is on no list, is an error at the end.
//
//	bench [-n RUNS] [-part confined|memory|starts|pooled|templated|many|calls|throughput|files|network|networkstarts [DETAIL...]]
//
// The details of files are parts of the work, see internal/files; that of many is how many
// pods there are.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"kata-runtime/virtcontainers/machine"
)

var errNoPart = errors.New("there is no such part")

func main() {
	// The plain VM's vsock device is served as a pod's is.
	if len(os.Args) > 1 && os.Args[1] == machine.BackendCommand {
		os.Exit(machine.RunBackend(os.Args[2:]))
	}
	runs := flag.Int("n", 7, "how often each start is measured, at least 1")
	part := flag.String("part", "", "the only `part` to measure; of files, the parts that follow, of many the number, if any")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *runs, *part, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, runs int, only string, details []string) (err error) {
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	runs = max(runs, 1)
	rounds := min(runs, maxRounds)
	if only != "" {
		rounds = runs
	}
	known := false
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"confined", func(ctx context.Context) error { return b.confined(ctx, runs) }},
		{"memory", b.memory}, // also learns the machine's options for the bare boot of starts
		{"starts", func(ctx context.Context) error { return b.starts(ctx, runs) }},
		{"pooled", func(ctx context.Context) error { return b.pooled(ctx, runs) }},
		{"templated", func(ctx context.Context) error { return b.templated(ctx, runs) }},
		{"many", func(ctx context.Context) error { return b.many(ctx, rounds, details) }},
		{"calls", func(ctx context.Context) error { return b.calls(ctx, runs) }},
		{"throughput", func(ctx context.Context) error { return b.throughput(ctx, rounds) }},
		{"files", func(ctx context.Context) error { return b.files(ctx, rounds, details) }},
		{"network", b.network},
		{"networkstarts", func(ctx context.Context) error { return b.networkStarts(ctx, runs) }},
	} {
		if only != "" && only != part.name {
			continue
		}
		known = true
		if err := part.measure(ctx); err != nil {
			return err
		}
	}
	if !known {
		return fmt.Errorf("%q: %w", only, errNoPart)
	}
	return nil
}
