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

// systemdScript waits until systemd has started what it is to start; then it runs
// a unit of its own with a limit.
const systemdScript = `
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
	units := upUnit(t, p.h.File("units"))
	p.must(p.container("run", "--detach", "--name", "machine", "--memory", "512m", "--volume", units+":"+unitDirectory, debian, "/sbin/init")...)
	p.h.WaitText(filepath.Join(units, "up"), "up\n")

	p.want(0, "running\n20971520\n", "", "exec", "machine", "sh", "-c", systemdScript)

	began := time.Now()
	p.must("stop", "--time", "120", "machine") // by signal 37, then by SIGKILL
	took := time.Since(began)
	if state := p.must("inspect", "--format", "{{.State.ExitCode}} {{.Config.StopSignal}}", "machine"); state != "0 37" {
		t.Errorf("after %v: exit code and signal of stop %q, want 0 and 37\n%s", took, state, lastLines(p.must("logs", "machine"), 20))
	}
}

// unitDirectory is one where systemd looks for units, and an image has none.
const unitDirectory = "/usr/local/lib/systemd/system"

// upUnit makes a directory with a unit that writes a file beside it when systemd
// has come that far. A process of exec's that waits for that is in systemd's own
// control group: as long as it is, systemd can hand no controller on, with any
// runtime, and never does if it finds that when it starts.
func upUnit(t *testing.T, dir string) string {
	t.Helper()
	for name, text := range map[string]string{
		"up.service":                  "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo up > " + unitDirectory + "/up'\n",
		"multi-user.target.d/up.conf": "[Unit]\nWants=up.service\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func lastLines(text string, count int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
