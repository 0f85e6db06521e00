package exposition

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"kata-runtime/virtcontainers/metrics"
)

// contentType is that of Prometheus' text.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// podLabel is the label that every metric of a pod has first.
const podLabel = "sandbox_id"

// Names of metrics that are the exporter's own.
const (
	up        = "kata_up"
	podInfo   = "kata_pod_info"
	duration  = "kata_scrape_duration_seconds"
	pods      = "kata_pods"
	buildInfo = "kata_build_info"
)

// families are all metrics, sorted by name, with all their labels.
func families() []metrics.Family {
	list := metrics.Families()
	for i := range list {
		list[i].Labels = append([]string{podLabel}, list[i].Labels...)
	}
	list = append(list,
		metrics.Family{Name: up, Help: "Whether the pod's owner answered in time.", Labels: []string{podLabel}},
		metrics.Family{Name: podInfo, Help: "The pod's namespace and name in Kubernetes; always 1.", Labels: []string{podLabel, "pod_namespace", "pod_name"}},
		metrics.Family{Name: duration, Help: "How long the pod's owner took for its answer.", Labels: []string{podLabel}},
		metrics.Family{Name: pods, Help: "Pods of this host."},
		metrics.Family{Name: buildInfo, Help: "The runtime that shows these figures; always 1.", Labels: []string{"version", "commit"}},
	)
	list = append(list, HostFamilies()...)
	slices.SortFunc(list, func(a, b metrics.Family) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Names of metrics of the pool of prepared machines.
const (
	FactoryMachines  = "kata_factory_machines"
	FactoryHits      = "kata_factory_hits_total"
	FactoryMisses    = "kata_factory_misses_total"
	FactoryPrepared  = "kata_factory_prepared_total"
	FactoryDiscarded = "kata_factory_discarded_total"
	FactoryFailures  = "kata_factory_failures_total"
	FactoryRestored  = "kata_factory_restored_total"
	FactoryBooted    = "kata_factory_booted_total"
)

// HostFamilies are the metrics that are the host's and no pod's.
func HostFamilies() []metrics.Family {
	return []metrics.Family{
		{Name: FactoryMachines, Help: "Prepared machines, by the front end that they are for.", Labels: []string{"front_end", "state"}},
		{Name: FactoryHits, Help: "Pods that have taken a prepared machine.", Kind: metrics.Counter, Labels: []string{"front_end"}},
		{Name: FactoryMisses, Help: "Pods that have started cold although there is a pool.", Kind: metrics.Counter, Labels: []string{"front_end", "reason"}},
		{Name: FactoryPrepared, Help: "Machines that were prepared.", Kind: metrics.Counter, Labels: []string{"front_end"}},
		{Name: FactoryDiscarded, Help: "Prepared machines that were thrown away.", Kind: metrics.Counter, Labels: []string{"front_end", "reason"}},
		{Name: FactoryRestored, Help: "Machines, also of pods that found no prepared one, that began as a copy of a saved one.", Kind: metrics.Counter, Labels: []string{"front_end"}},
		{Name: FactoryBooted, Help: "Machines that booted although they were to begin as a copy of a saved one.", Kind: metrics.Counter, Labels: []string{"front_end", "reason"}},
		{Name: FactoryFailures, Help: "Machines that could not be prepared.", Kind: metrics.Counter, Labels: []string{"front_end"}},
	}
}

// sample is a value of a metric with the values of all its labels.
type sample struct {
	labels []string
	value  float64
}

// render writes what was measured as text. What this version does not know is left
// out: a pod's owner may be of another, and say a metric's labels differently.
func (e *Exporter) render(results []*result) []byte {
	samples := make(map[string][]sample)
	add := func(name string, value float64, labels ...string) {
		samples[name] = append(samples[name], sample{labels, value})
	}
	add(buildInfo, 1, e.options.Version, e.options.Commit)
	add(pods, float64(len(results)))
	if e.options.Host != nil {
		for _, s := range e.options.Host() {
			add(s.Name, s.Value, s.Labels...)
		}
	}
	for _, r := range results {
		answered := 1.0
		if r.err != nil {
			answered = 0
		}
		add(up, answered, r.pod.ID)
		add(duration, r.took.Seconds(), r.pod.ID)
		if r.pod.Name != "" {
			add(podInfo, 1, r.pod.ID, r.pod.Namespace, r.pod.Name)
		}
		for _, s := range r.samples {
			add(s.Name, s.Value, append([]string{r.pod.ID}, s.Labels...)...)
		}
	}
	var text bytes.Buffer
	for _, f := range e.families {
		writeFamily(&text, f, samples[f.Name])
	}
	return text.Bytes()
}

// writeFamily writes the samples of one metric, none of them twice.
func writeFamily(text *bytes.Buffer, f metrics.Family, samples []sample) {
	written := make(map[string]bool)
	for _, s := range samples {
		if len(s.labels) != len(f.Labels) {
			continue
		}
		labels := labelText(f.Labels, s.labels)
		if written[labels] {
			continue
		}
		if len(written) == 0 {
			fmt.Fprintf(text, "# HELP %s %s\n# TYPE %s %s\n", f.Name, f.Help, f.Name, f.Kind)
		}
		written[labels] = true
		fmt.Fprintf(text, "%s%s %s\n", f.Name, labels, strconv.FormatFloat(s.value, 'g', -1, 64))
	}
}

// labelText is what follows a metric's name.
func labelText(names, values []string) string {
	if len(names) == 0 {
		return ""
	}
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	pairs := make([]string, len(names))
	for i, name := range names {
		pairs[i] = name + `="` + escape.Replace(strings.ToValidUTF8(values[i], "\uFFFD")) + `"`
	}
	return "{" + strings.Join(pairs, ",") + "}"
}
