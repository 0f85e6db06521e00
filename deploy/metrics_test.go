package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"

	"kata-runtime/virtcontainers/metrics"
	"kata-runtime/virtcontainers/metrics/exposition"
	"kata-runtime/virtcontainers/store"
)

// exposed are the names of all metrics and their labels, as Prometheus has them.
func exposed(t *testing.T) (names, labels map[string]bool) {
	t.Helper()
	var samples []metrics.Sample
	for _, f := range metrics.Families() {
		samples = append(samples, metrics.Sample{Name: f.Name, Labels: f.Labels})
	}
	pod := exposition.Pod{ID: "pod", Namespace: "default", Name: "name", Measure: func(context.Context) ([]metrics.Sample, error) { return samples, nil }}
	exporter := exposition.New(exposition.Options{
		Timeout: time.Minute, Log: slog.New(slog.DiscardHandler),
		Pods: func(context.Context) ([]exposition.Pod, error) { return []exposition.Pod{pod}, nil },
	})
	var text bytes.Buffer
	if err := exporter.Write(t.Context(), &text); err != nil {
		t.Fatal(err)
	}
	names = make(map[string]bool)
	labels = map[string]bool{"instance": true} // Prometheus' own
	label := regexp.MustCompile(`([a-z_]+)="`)
	for line := range strings.Lines(text.String()) {
		name, rest, _ := strings.Cut(line, "{")
		if !strings.HasPrefix(line, "#") {
			names[strings.Fields(name)[0]] = true
			for _, found := range label.FindAllStringSubmatch(rest, -1) {
				labels[found[1]] = true
			}
		}
	}
	return names, labels
}

// TestDashboard: each metric that it asks for exists, and each label.
func TestDashboard(t *testing.T) {
	type target struct{ Expr, LegendFormat string }
	var dashboard struct {
		Title, UID string
		Panels     []struct {
			ID      int
			Type    string
			Title   string
			Targets []target
			GridPos struct{ H, W, X, Y int }
		}
		Templating struct {
			List []struct {
				Name       string
				Definition string
			}
		}
	}
	if err := json.Unmarshal([]byte(text(t, "grafana.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	names, labels := exposed(t)
	var queries []string
	ids := make(map[int]bool)
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] || panel.Title == "" || panel.Type != "row" && len(panel.Targets) == 0 || panel.GridPos.X+panel.GridPos.W > 24 {
			t.Errorf("panel %+v", panel)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			queries = append(queries, target.Expr)
			for _, used := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if !labels[used[1]] {
					t.Errorf("%s: no metric has the label %s", panel.Title, used[1])
				}
			}
		}
	}
	variables := make(map[string]bool)
	for _, variable := range dashboard.Templating.List {
		variables[variable.Name] = true
		queries = append(queries, variable.Definition)
	}
	if len(queries) < 20 || dashboard.Title == "" || dashboard.UID == "" {
		t.Errorf("a dashboard of %d queries", len(queries))
	}
	metric, label := regexp.MustCompile(`\bkata_\w+`), regexp.MustCompile(`(\w+)(?:=~|!=|=)"|by \(([\w, ]+)\)`)
	variable := regexp.MustCompile(`\$(\w+)`)
	for _, query := range queries {
		for _, name := range metric.FindAllString(query, -1) {
			if !names[name] {
				t.Errorf("there is no metric %s, for which the dashboard asks: %s", name, query)
			}
		}
		for _, found := range label.FindAllStringSubmatch(query, -1) {
			for used := range strings.SplitSeq(found[1]+found[2], ", ") {
				if !labels[used] {
					t.Errorf("no metric has the label %s, for which the dashboard asks: %s", used, query)
				}
			}
		}
		for _, found := range variable.FindAllStringSubmatch(query, -1) {
			if !variables[found[1]] && !strings.HasPrefix(found[1], "__") {
				t.Errorf("there is no variable %s: %s", found[1], query)
			}
		}
	}
	if !strings.Contains(text(t, "README.md"), "grafana.json") {
		t.Error("README.md does not tell of grafana.json")
	}
}

// TestMetricsDaemonSet: it finds the pods of every front end, and has no more
// rights than that needs.
func TestMetricsDaemonSet(t *testing.T) {
	set := find[apps.DaemonSet](t, "metrics.yaml")
	pod := set.Spec.Template.Spec
	container := pod.Containers[0]
	if container.Image != made(t, "NODE_IMAGE") || set.Namespace != find[core.Namespace](t, "install.yaml").Name {
		t.Errorf("the image is %s, the namespace %s", container.Image, set.Namespace)
	}
	for key, value := range set.Spec.Selector.MatchLabels {
		if set.Spec.Template.Labels[key] != value {
			t.Errorf("%s=%s selects nothing", key, value)
		}
	}
	paths := make(map[string]string)
	for _, volume := range pod.Volumes {
		paths[volume.Name] = volume.HostPath.Path
	}
	var mounted []string
	for _, mount := range container.VolumeMounts {
		if !mount.ReadOnly || paths[mount.Name] != mount.MountPath {
			t.Errorf("%s is at %s, writable: %v", paths[mount.Name], mount.MountPath, !mount.ReadOnly)
		}
		mounted = append(mounted, mount.MountPath)
	}
	const runcShim = "/run/containerd/runc/k8s.io"
	for _, root := range []string{store.DefaultRoot, store.DefaultShimRoot, runcShim} {
		if !slices.Contains(mounted, root) {
			t.Errorf("%s is not mounted: %v", root, mounted)
		}
	}
	if !slices.Contains(container.Args, "--state-dir="+runcShim) || container.Args[0] != "metrics" {
		t.Errorf("arguments %v", container.Args)
	}
	port := container.Ports[0].ContainerPort
	if !slices.Contains(container.Args, "--listen=:"+set.Spec.Template.Annotations["prometheus.io/port"]) || port != 9410 {
		t.Errorf("it listens by %v, says port %d", container.Args, port)
	}
	security := container.SecurityContext
	if security.Privileged != nil || *security.RunAsUser != 0 || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem ||
		!slices.Equal(security.Capabilities.Drop, []core.Capability{"ALL"}) || *pod.AutomountServiceAccountToken || pod.HostPID || pod.HostNetwork {
		t.Errorf("rights that are not needed: %+v", security)
	}
}
