//go:build vm

package callers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// systemdScript waits until systemd can be asked, and until it has started what
// it is to start; then it runs a unit of its own with a limit.
const systemdScript = `
until test -S /run/systemd/private; do sleep 0.2; done
systemctl is-system-running --wait
systemctl --failed --no-legend --plain
systemd-run --quiet --wait --pipe --property MemoryMax=20M sh -c '
	group=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); cat $group/memory.max'
`

// TestPodmanSystemd runs a Debian as a machine would. podman mounts what systemd
// needs of the host's cgroups, which are of either version; a volume of the image
// is in their place, as images have that were made for version 1.
func TestPodmanSystemd(t *testing.T) {
	archive := os.Getenv(program.SystemdVariable)
	if archive == "" {
		archive = filepath.Join(harness.Repository(t), "build", "systemd.tar")
	}
	if _, err := os.Stat(archive); err != nil {
		t.Fatalf("%v (make systemd makes it)", err)
	}
	p := newPodman(t)
	const debian = "localhost/debian"
	p.must("import", "--change", "VOLUME /sys/fs/cgroup", archive, debian)
	p.must(p.container("run", "--detach", "--name", "machine", "--memory", "512m", debian, "/sbin/init")...)

	p.want(0, "running\n20971520\n", "", "exec", "machine", "sh", "-c", systemdScript)

	began := time.Now()
	p.must("stop", "--time", "120", "machine") // by signal 37, then by SIGKILL
	took := time.Since(began)
	if state := p.must("inspect", "--format", "{{.State.ExitCode}} {{.Config.StopSignal}}", "machine"); state != "0 37" {
		t.Errorf("after %v: exit code and signal of stop %q, want 0 and 37\n%s", took, state, lastLines(p.must("logs", "machine"), 20))
	}
}

func lastLines(text string, count int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
