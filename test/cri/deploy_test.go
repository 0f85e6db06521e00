package cri

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"kata-runtime/test/harness"
	"kata-runtime/virtcontainers/config"
)

// What deploy/ gives to a node and to a cluster.
const (
	handler = "kata"
	// shimHandler is the one that has a shim of its own.
	shimHandler = "kata-shim"
	program     = "/usr/local/bin/kata-runtime"
	// measuredMemory is what a pod with a few containers takes on the host
	// besides its guest's RAM, in MiB, as `make bench` prints it.
	measuredMemory = 160
)

// deployed returns a file of deploy/.
func deployed(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(harness.Repository(t), "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestDeployManagers looks for the handler in each manager's configuration.
func TestDeployManagers(t *testing.T) {
	type table = map[string]any
	for name, want := range map[string]struct {
		path   []string // of the runtimes' table
		values table
	}{
		"containerd-1.toml": {
			[]string{"plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes"},
			table{"runtime_type": "io.containerd.runc.v2", "BinaryName": program},
		},
		"containerd-2.toml": {
			[]string{"plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes"},
			table{"runtime_type": "io.containerd.runc.v2", "BinaryName": program},
		},
		"50-kata.conf": {
			[]string{"crio", "runtime", "runtimes"},
			table{"runtime_type": "oci", "runtime_path": program, "runtime_root": "/run/kata-runtime"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var at table
			if _, err := toml.Decode(deployed(t, name), &at); err != nil {
				t.Fatal(err)
			}
			for _, key := range append(want.path, handler) {
				next, ok := at[key].(table)
				if !ok {
					t.Fatalf("no table %s in %v", key, at)
				}
				at = next
			}
			if options, ok := at["options"].(table); ok {
				for key, value := range options {
					at[key] = value
				}
			}
			for key, value := range want.values {
				if at[key] != value {
					t.Errorf("%s is %v, want %v", key, at[key], value)
				}
			}
		})
	}
}

// TestDeployDocumented compares the managers' configuration with the one that
// the documentation shows.
func TestDeployDocumented(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(harness.Repository(t), "docs", "integration.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"containerd-1.toml", "containerd-2.toml", "50-kata.conf"} {
		var settings strings.Builder
		for line := range strings.Lines(deployed(t, name)) {
			if !strings.HasPrefix(line, "#") {
				settings.WriteString(line)
			}
		}
		if !strings.Contains(string(data), "```\n"+settings.String()+"```\n") {
			t.Errorf("docs/integration.md shows another configuration than deploy/%s:\n%s", name, settings.String())
		}
	}
}

// TestDeployOverhead checks that the class covers the memory that the deployed
// configuration gives to a VM.
func TestDeployOverhead(t *testing.T) {
	path := filepath.Join(harness.Repository(t), "deploy", "configuration.toml")
	loaded, err := config.Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	class := keys(t, "runtimeclass.yaml")
	memory, err := strconv.Atoi(strings.TrimSuffix(class["overhead.podFixed.memory"], "Mi"))
	if err != nil {
		t.Fatal(err)
	}
	if own := loaded.Hypervisor.DefaultMemoryMiB; memory < own+measuredMemory {
		t.Errorf("an overhead of %d MiB does not cover the VM's %d MiB and %d MiB around it", memory, own, measuredMemory)
	}
}

// TestDeployObjects checks the objects' names and that they fit together.
func TestDeployObjects(t *testing.T) {
	class, pod := keys(t, "runtimeclass.yaml"), keys(t, "pod.yaml")
	for _, want := range []struct{ got, want string }{
		{class["apiVersion"], "node.k8s.io/v1"},
		{class["kind"], "RuntimeClass"},
		{class["handler"], handler},
		{class["metadata.name"], handler},
		{pod["apiVersion"], "v1"},
		{pod["kind"], "Pod"},
		{pod["spec.runtimeClassName"], class["metadata.name"]},
	} {
		if want.got != want.want {
			t.Errorf("%q, want %q", want.got, want.want)
		}
	}
	readme := deployed(t, "README.md")
	if label := "kata-runtime/installed=" + strings.Trim(class["scheduling.nodeSelector.kata-runtime/installed"], `"`); !strings.Contains(readme, label+"\n") {
		t.Errorf("README.md does not say to label nodes with %s", label)
	}
}

// yamlLine is a line of the simple kind of YAML that deploy/ keeps to: a key,
// with a value on the same line or a block below it.
var yamlLine = regexp.MustCompile(`^((?:  )*)(- )?([A-Za-z][\w./-]*):(?: (.+))?$`)

// keys reads the values of a YAML file by their paths, such as metadata.name.
// Lists are passed over, once their form is checked.
func keys(t *testing.T, name string) map[string]string {
	t.Helper()
	values := map[string]string{}
	var path []string
	for number, line := range strings.Split(deployed(t, name), "\n") {
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		match := yamlLine.FindStringSubmatch(line)
		if match == nil {
			t.Fatalf("%s:%d: %q", name, number+1, line)
		}
		depth := len(match[1]) / 2
		if depth > len(path) {
			t.Fatalf("%s:%d: too far to the right: %q", name, number+1, line)
		}
		if match[2] != "" { // an entry of a list, whose first key this is
			path = append(path[:depth:depth], "-")
			depth++
		}
		path = append(path[:depth:depth], match[3])
		if match[4] != "" {
			values[strings.Join(path, ".")] = match[4]
		}
	}
	return values
}
