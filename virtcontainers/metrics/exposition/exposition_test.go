package exposition_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"kata-runtime/virtcontainers/metrics"
	"kata-runtime/virtcontainers/metrics/exposition"
)

// everything has a sample of every metric.
func everything() []metrics.Sample {
	var samples []metrics.Sample
	for _, f := range metrics.Families() {
		samples = append(samples, metrics.Sample{Name: f.Name, Labels: slices.Repeat([]string{"x"}, len(f.Labels)), Value: 1.5})
	}
	return samples
}

// pod is one that answers, or does not.
func pod(id string, samples []metrics.Sample, err error) exposition.Pod {
	return exposition.Pod{
		ID: id, Measure: func(context.Context) ([]metrics.Sample, error) { return samples, err }, Exists: func() bool { return true },
	}
}

func exporter(pods ...exposition.Pod) *exposition.Exporter {
	return exposition.New(exposition.Options{
		Version: "1.2.3", Commit: "abc", Timeout: time.Minute, Log: slog.New(slog.DiscardHandler),
		Pods: func(context.Context) ([]exposition.Pod, error) { return pods, nil }, Host: host,
	})
}

// host has a sample of every metric that is no pod's.
func host() []metrics.Sample {
	var samples []metrics.Sample
	for _, f := range exposition.HostFamilies() {
		samples = append(samples, metrics.Sample{Name: f.Name, Labels: slices.Repeat([]string{"y"}, len(f.Labels)), Value: 2})
	}
	return samples
}

// parse reads a text as Prometheus does.
func parse(t *testing.T, text io.Reader) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// values are a metric's, by the text of its labels.
func values(f *dto.MetricFamily) map[string]float64 {
	found := make(map[string]float64)
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		value := m.GetGauge().GetValue()
		if f.GetType() == dto.MetricType_COUNTER {
			value = m.GetCounter().GetValue()
		}
		found[strings.Join(labels, ",")] = value
	}
	return found
}

// TestText: it is what Prometheus reads, under names and with help texts as its
// conventions want them.
func TestText(t *testing.T) {
	one := pod("p1", everything(), nil)
	one.Namespace, one.Name = "default", "web"
	var text bytes.Buffer
	if err := exporter(one, pod("p2", everything(), nil)).Write(t.Context(), &text); err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(bytes.NewReader(text.Bytes())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families := parse(t, &text)
	for _, want := range metrics.Families() {
		got, ok := families[want.Name]
		if !ok || got.GetHelp() != want.Help || len(got.GetMetric()) != 2 || !strings.EqualFold(got.GetType().String(), want.Kind.String()) {
			t.Errorf("%s is %v", want.Name, got)
		}
	}
	for name, want := range map[string]map[string]float64{
		"kata_build_info":       {"version=1.2.3,commit=abc": 1},
		"kata_pods":             {"": 2},
		"kata_factory_machines": {"front_end=y,state=y": 2},
		"kata_up":               {"sandbox_id=p1": 1, "sandbox_id=p2": 1},
		"kata_pod_info":         {"sandbox_id=p1,pod_namespace=default,pod_name=web": 1},
		"kata_vm_memory_bytes":  {"sandbox_id=p1": 1.5, "sandbox_id=p2": 1.5},
		"kata_process_open_fds": {"sandbox_id=p1,process=x": 1.5, "sandbox_id=p2,process=x": 1.5},
	} {
		if diff := cmp.Diff(want, values(families[name])); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestStrangeSamples: what another version's owner says, or one that was taken over,
// neither spoils the text nor appears in it.
func TestStrangeSamples(t *testing.T) {
	samples := []metrics.Sample{
		{Name: "kata_future", Value: 1},
		{Name: "kata_vm_info", Labels: []string{"too few"}, Value: 1},
		{Name: "kata_vm_vcpus", Labels: []string{"too many"}, Value: 1},
		{Name: "kata_up", Value: 7}, // the exporter's own
		{Name: "kata_guest_load1", Value: 1},
		{Name: "kata_guest_load1", Value: 2},
		{Name: "kata_process_threads", Labels: []string{"a\"b\\c\nd\xff"}, Value: 3},
	}
	var text bytes.Buffer
	if err := exporter(pod("p", samples, nil)).Write(t.Context(), &text); err != nil {
		t.Fatal(err)
	}
	families := parse(t, &text)
	maps.DeleteFunc(families, func(name string, _ *dto.MetricFamily) bool { return strings.HasPrefix(name, "kata_factory_") }) // the host's
	names := slices.Sorted(maps.Keys(families))
	want := []string{"kata_build_info", "kata_guest_load1", "kata_pods", "kata_process_threads", "kata_scrape_duration_seconds", "kata_up"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if got := values(families["kata_guest_load1"]); got["sandbox_id=p"] != 1 {
		t.Errorf("load %v", got)
	}
	if got := values(families["kata_process_threads"]); got["sandbox_id=p,process=a\"b\\c\nd\uFFFD"] != 3 {
		t.Errorf("threads %v", got)
	}
	if got := values(families["kata_up"]); got["sandbox_id=p"] != 1 {
		t.Errorf("up %v", got)
	}
}

// TestScrape: a pod that is silent costs the others nothing but time, one that is
// gone is none, and each scrape finds the pods of its moment.
func TestScrape(t *testing.T) {
	silent := exposition.Pod{
		ID: "silent", Exists: func() bool { return true },
		Measure: func(ctx context.Context) ([]metrics.Sample, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		},
	}
	gone := pod("gone", nil, errors.New("no such pod"))
	gone.Exists = func() bool { return false }
	scrapes := 0
	e := exposition.New(exposition.Options{
		Timeout: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
		Pods: func(context.Context) ([]exposition.Pod, error) {
			scrapes++
			return []exposition.Pod{silent, gone, pod(fmt.Sprintf("pod%d", scrapes), everything(), nil)}, nil
		},
	})
	server := httptest.NewServer(e)
	defer server.Close()
	for i := 1; i <= 2; i++ {
		response, err := http.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		families := parse(t, response.Body)
		response.Body.Close()
		if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
			t.Errorf("content type %q", kind)
		}
		want := map[string]float64{"sandbox_id=silent": 0, fmt.Sprintf("sandbox_id=pod%d", i): 1}
		if diff := cmp.Diff(want, values(families["kata_up"])); diff != "" {
			t.Error(diff)
		}
		if len(families["kata_vm_vcpus"].GetMetric()) != 1 {
			t.Errorf("vCPUs of %v", families["kata_vm_vcpus"].GetMetric())
		}
	}
}

func TestErrors(t *testing.T) {
	e := exporter(pod("a", nil, errors.New("a is silent")), pod("b", everything(), nil))
	var unreachable *exposition.UnreachableError
	if err := e.Write(t.Context(), io.Discard); !errors.As(err, &unreachable) || err.Error() != "a is silent" {
		t.Errorf("error %v", err)
	}
	lost := errors.New("no state")
	e = exposition.New(exposition.Options{
		Log:  slog.New(slog.DiscardHandler),
		Pods: func(context.Context) ([]exposition.Pod, error) { return nil, lost },
	})
	if err := e.Write(t.Context(), io.Discard); !errors.Is(err, lost) {
		t.Errorf("error %v", err)
	}
	recorder := httptest.NewRecorder()
	e.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if recorder.Code != http.StatusInternalServerError {
		t.Errorf("status %d", recorder.Code)
	}
}

// TestManyPods are asked side by side, up to a bound, and none is lost.
func TestManyPods(t *testing.T) {
	var pods []exposition.Pod
	for i := range 500 {
		pods = append(pods, pod(fmt.Sprintf("p%d", i), everything(), nil))
	}
	var text bytes.Buffer
	if err := exporter(append(pods, pods[0])...).Write(t.Context(), &text); err != nil {
		t.Fatal(err)
	}
	if families := parse(t, &text); len(families["kata_up"].GetMetric()) != 500 {
		t.Errorf("%d pods", len(families["kata_up"].GetMetric()))
	}
}

// TestDocumentation: each metric is in the table of docs/metrics.md, as it is.
func TestDocumentation(t *testing.T) {
	documentation, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	one := pod("p", everything(), nil)
	one.Name = "web"
	var text bytes.Buffer
	if err := exporter(one).Write(t.Context(), &text); err != nil {
		t.Fatal(err)
	}
	families := parse(t, &text)
	var table strings.Builder
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		var labels []string
		for _, label := range f.GetMetric()[0].GetLabel() {
			if label.GetName() != "sandbox_id" {
				labels = append(labels, "`"+label.GetName()+"`")
			}
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	if !strings.Contains(string(documentation), "|---|---|---|---|\n"+table.String()+"\n") {
		t.Errorf("docs/metrics.md has another table than\n%s", &table)
	}
}
