// Command bench measures the built runtime and prints the figures as tables:
// the cold start of a container against a bare boot of the same kernel with the
// same QEMU and against runc, with the time of each stage; its start from a pool of
// prepared machines, and what such a machine takes; the memory of each
// process and of a further container of the pod; programs and containers that
// are started in a running pod; the throughput of a container's output, input and
// files against that of plain vsock and virtiofs and against runc; that of its
// network against plain VMs on the same tap and against runc; what the network
// adds to a cold start.
//
// What is compared runs alternately, so that a busy machine is slow for all.
// Every figure is a median.
//
//	bench [-n RUNS]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	runs := flag.Int("n", 7, "how often each start is measured, at least 1")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *runs)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, runs int) error {
	b, err := newBench()
	if err != nil {
		return err
	}
	defer b.close()
	for _, part := range []func(context.Context) error{
		b.memory, // also learns the machine's options for the bare boot
		func(ctx context.Context) error { return b.starts(ctx, max(runs, 1)) },
		func(ctx context.Context) error { return b.pooled(ctx, max(runs, 1)) },
		func(ctx context.Context) error { return b.calls(ctx, max(runs, 1)) },
		b.throughput,
		b.network,
		func(ctx context.Context) error { return b.networkStarts(ctx, max(runs, 1)) },
	} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}
