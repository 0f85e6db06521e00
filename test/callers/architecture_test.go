//go:build vm

package callers

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"kata-runtime/test/harness"
)

// TestPodmanArchitecture: an image for arm64 runs as it is.
func TestPodmanArchitecture(t *testing.T) {
	p := newPodman(t)
	root := p.h.File("arm64")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join(harness.Repository(t), "build", "arm64", "busybox"))
	if err != nil {
		t.Fatalf("%v: run make build/arm64/busybox first", err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	archive := p.h.File("arm64.tar")
	if output, err := exec.CommandContext(t.Context(), "tar", "-C", root, "-cf", archive, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, output)
	}
	p.must("import", "--arch", "arm64", archive, "localhost/foreign")
	// With podman's own seccomp profile, which is for this host.
	p.want(3, "aarch64\n", "", p.container("run", "--rm", "--arch", "arm64", "--pull", "never", "localhost/foreign",
		"/bin/busybox", "sh", "-c", "busybox uname -m; exit 3")...)
}
