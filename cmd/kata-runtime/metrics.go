package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/metrics"
	"kata-runtime/virtcontainers/metrics/exposition"
	"kata-runtime/virtcontainers/monitor"
	"kata-runtime/virtcontainers/oci"
)

// metricsPath is where a scrape finds the metrics, as everywhere.
const metricsPath = "/metrics"

func metricsCommand() *cli.Command {
	return &cli.Command{
		Name:      "metrics",
		Usage:     "print the metrics of a pod, or of all pods, or serve them to Prometheus",
		ArgsUsage: "[ID]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Usage: "serve the metrics of all pods on `ADDRESS` (such as 127.0.0.1:9410), under " + metricsPath + ", until SIGTERM"},
			stateDirFlag(),
		},
		Action: metricsAction,
	}
}

func metricsAction(c *cli.Context) error {
	if c.NArg() > 1 {
		return fmt.Errorf("metrics takes one argument at most, a pod's id, not %d", c.NArg())
	}
	exporter := newExporter(c, func(context.Context) ([]exposition.Pod, error) { return monitoredPods(c) })
	address := c.String("listen")
	switch {
	case address != "" && c.Args().Present():
		return errors.New("metrics --listen takes no id: it serves all pods")
	case address != "":
		return serveMetrics(c, exporter, address)
	case !c.Args().Present():
		err := exporter.Write(c.Context, c.App.Writer)
		var unreachable *exposition.UnreachableError
		if errors.As(err, &unreachable) { // the output says so too
			logger(c).Warn("pods do not answer", "error", err)
			err = nil
		}
		return err
	}
	stores, err := openStores(c)
	if err != nil {
		return err
	}
	pod, err := findMonitored(stores, c.Args().First())
	if err != nil {
		return err
	}
	only := func(context.Context) ([]exposition.Pod, error) { return []exposition.Pod{pod.exposed()}, nil }
	return newExporter(c, only).Write(c.Context, c.App.Writer)
}

func newExporter(c *cli.Context, pods func(context.Context) ([]exposition.Pod, error)) *exposition.Exporter {
	return exposition.New(exposition.Options{
		Version: version, Commit: commit, Pods: pods, Timeout: monitor.MeasureTimeout, Log: logger(c),
		Host: func() []metrics.Sample { return factorySamples(c) },
	})
}

// monitoredPods are those that there are now.
func monitoredPods(c *cli.Context) ([]exposition.Pod, error) {
	stores, err := openStores(c)
	if err != nil {
		return nil, err
	}
	found, err := listPods(stores)
	pods := make([]exposition.Pod, len(found))
	for i, pod := range found {
		pods[i] = pod.exposed()
	}
	return pods, err
}

func (p monitoredPod) exposed() exposition.Pod {
	namespace, name := oci.PodName(p.state.Annotations)
	return exposition.Pod{
		ID: p.entry.ID(), Namespace: namespace, Name: name,
		Measure: func(ctx context.Context) ([]metrics.Sample, error) {
			return monitor.Measure(ctx, p.entry)
		},
		Exists: func() bool {
			_, err := p.entry.Load()
			return !errors.Is(err, virtcontainers.ErrNotFound)
		},
	}
}

// serveMetrics serves until the process is asked to end.
func serveMetrics(c *cli.Context, exporter http.Handler, address string) error {
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+metricsPath, exporter)
	const patience = 10 * time.Second
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: patience, IdleTimeout: 5 * time.Minute,
		ReadTimeout: patience, WriteTimeout: patience + monitor.MeasureTimeout,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	fmt.Fprintf(c.App.Writer, "serving http://%s%s\n", listener.Addr(), metricsPath)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
		return fmt.Errorf("serve metrics: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err = server.Shutdown(last)
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}
