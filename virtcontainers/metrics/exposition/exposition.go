// Package exposition shows what package metrics measures to Prometheus, and to
// people, in the same text: Prometheus' format 0.0.4. It is written by hand, in one
// small function, because every process of kata-runtime (each command, supervisor
// and stand-in) would carry the metrics library and pay for its initialization.
package exposition

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"kata-runtime/virtcontainers/metrics"
)

// Pod is one that may be measured.
type Pod struct {
	// ID is the label sandbox_id.
	ID string
	// Namespace and Name are Kubernetes'; empty for another pod.
	Namespace, Name string
	// Measure asks its owner, and ends with ctx.
	Measure func(ctx context.Context) ([]metrics.Sample, error)
	// Exists tells whether a pod that could not be measured is still there.
	Exists func() bool
}

// Options are what an Exporter needs.
type Options struct {
	// Version and Commit are the runtime's.
	Version, Commit string
	// Pods finds those that there are now.
	Pods func(ctx context.Context) ([]Pod, error)
	// Host measures what is the host's, of HostFamilies; nil: nothing.
	Host func() []metrics.Sample
	// Timeout bounds how long each pod takes.
	Timeout time.Duration
	Log     *slog.Logger
}

// atOnce is how many pods are asked at a time.
const atOnce = 32

// Exporter shows pods' figures. Its methods may be called at the same time.
type Exporter struct {
	options  Options
	families []metrics.Family // sorted by name
}

// New makes an exporter.
func New(options Options) *Exporter {
	return &Exporter{options: options, families: families()}
}

// Write writes the text of all pods. Those that could not be measured are in the
// text, and in the error too, an *UnreachableError.
func (e *Exporter) Write(ctx context.Context, w io.Writer) error {
	results, err := e.scrape(ctx)
	if err != nil {
		return err
	}
	if _, err := w.Write(e.render(results)); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return failed(results)
}

// ServeHTTP implements http.Handler: a scrape.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	results, err := e.scrape(r.Context())
	if err != nil {
		e.options.Log.Error("find the pods", "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if err := failed(results); err != nil {
		e.options.Log.Warn("pods do not answer", "error", err)
	}
	w.Header().Set("Content-Type", contentType)
	if _, err := w.Write(e.render(results)); err != nil {
		e.options.Log.Debug("a scrape was not taken", "error", err)
	}
}

// scrape measures all pods, side by side.
func (e *Exporter) scrape(ctx context.Context) ([]*result, error) {
	pods, err := e.options.Pods(ctx)
	if err != nil {
		return nil, err
	}
	results := make([]*result, len(pods))
	slots := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i, pod := range pods {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			results[i] = e.measure(ctx, pod)
		})
	}
	group.Wait()
	seen := make(map[string]bool)
	return slices.DeleteFunc(results, func(r *result) bool {
		// Two of one id, in different state directories, cannot be told apart.
		gone := r == nil || seen[r.pod.ID]
		if !gone {
			seen[r.pod.ID] = true
		}
		return gone
	}), nil
}

// result is what became of a pod.
type result struct {
	pod     Pod
	samples []metrics.Sample
	took    time.Duration
	err     error
}

// measure asks a pod; nil: it has gone meanwhile.
func (e *Exporter) measure(ctx context.Context, pod Pod) *result {
	ctx, cancel := context.WithTimeoutCause(ctx, e.options.Timeout, fmt.Errorf("no answer within %v", e.options.Timeout))
	defer cancel()
	began := time.Now()
	samples, err := pod.Measure(ctx)
	if err != nil && !pod.Exists() {
		return nil
	}
	return &result{pod, samples, time.Since(began), err}
}

// failed tells which pods were not measured, and why.
func failed(results []*result) error {
	failures := &UnreachableError{}
	for _, r := range results {
		if r.err != nil {
			failures.Errs = append(failures.Errs, r.err)
		}
	}
	if failures.Errs == nil {
		return nil
	}
	return failures
}

// UnreachableError is the error of pods that could not be measured.
type UnreachableError struct{ Errs []error }

// Error joins what the pods' errors say.
func (u *UnreachableError) Error() string {
	texts := make([]string, len(u.Errs))
	for i, err := range u.Errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the pods' errors.
func (u *UnreachableError) Unwrap() []error { return u.Errs }
