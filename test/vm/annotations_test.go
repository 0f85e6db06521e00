//go:build vm

package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// A pod changes its VM by its sandbox's annotations, as far as the configuration
// permits it.
func TestPodAnnotations(t *testing.T) {
	const prefix = "io.katacontainers.config.hypervisor."
	h := harness.New(t)
	configure(h, "hypervisor.default_maxvcpus = 3", "hypervisor.default_memory = 256", "hypervisor.kernel_params = \"first=1\"",
		"hypervisor.enable_annotations = [\"default_.*\", \"kernel_params\", \".*path\", \"kernel\"]")
	spec := sandbox(bundle.Spec("/bin/sh", "-c", waitForTerm))
	spec.Annotations[prefix+"default_vcpus"] = "2"
	spec.Annotations[prefix+"default_memory"] = "384"
	spec.Annotations[prefix+"kernel_params"] = "second=2"
	pod := detach(h, spec)
	h.WaitText(pod.output, "ready")

	got := h.Must("exec", pod.id, "/bin/sh", "-c", `
		grep -c ^processor /proc/cpuinfo
		ls -d /sys/devices/system/memory/memory[0-9]* | wc -l
		grep -o 'first=1 second=2' /proc/cmdline`)
	if want := "2\n3\nfirst=1 second=2\n"; got != want {
		t.Errorf("the guest has %q, want %q", got, want)
	}

	joining := member(bundle.Spec("/bin/sh", "-c", waitForTerm), pod, podNamespaces()...)
	joining.Annotations[prefix+"default_vcpus"] = "255" // a manager copies the pod's to each container
	joined := detach(h, joining)
	h.WaitText(joined.output, "ready")

	for name, test := range map[string]struct{ value, want string }{
		"default_vcpus":  {"4", "must not be above 3"},
		"pcie_root_port": {"1", `hypervisor.enable_annotations in the configuration has to list "pcie_root_port"`},
		"path":           {"/bin/true", "cannot choose files, programs"},
		"kernel":         {"/etc/passwd", "cannot choose files, programs"},
		"enable_iommu":   {"true", "is unknown"},
	} {
		refused := bundle.Spec("/bin/true")
		refused.Annotations = map[string]string{prefix + name: test.value}
		id := h.ID()
		result := h.Run("run", "-b", h.Bundle(refused), id)
		if result.Code == 0 || !strings.Contains(result.Stderr, prefix+name) || !strings.Contains(result.Stderr, test.want) {
			t.Errorf("%s: exit code %d, %s", name, result.Code, result.Stderr)
		}
		if _, err := os.Lstat(filepath.Join(h.Root, id)); !os.IsNotExist(err) {
			t.Errorf("%s: something is left: %v", name, err)
		}
	}
	for _, c := range []detached{joined, pod} {
		h.Must("delete", "--force", c.id)
		h.Reap(c.pid)
	}
}
