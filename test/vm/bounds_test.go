//go:build vm

package vm

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// A pod without any limit has bounds on the host, and its own use of files, of which
// the host keeps more in its memory than the bound allows, does not end it.
func TestPodWithoutLimitsIsBounded(t *testing.T) {
	h := harness.New(t)
	configure(h, "hypervisor.qemu.default_memory = 256", "runtime.overhead_memory = 128")
	spec := bundle.Spec("/bin/sh", "-c", ready)
	spec.Linux.Resources = nil
	spec.Linux.CgroupsPath = "/kata-test/" + h.ID()
	t.Cleanup(func() { removeCgroups(t, "kata-test") })
	d := detach(h, spec)
	h.WaitText(d.output, "ready")
	for _, want := range []struct{ controller, v1, v2, value string }{
		{"memory", "memory.limit_in_bytes", "memory.max", strconv.Itoa((256 + 128 + 1024 + overhead(t)) << 20)},
		{"pids", "pids.max", "pids.max", "16384"},
	} {
		name := want.v1
		if unified() {
			name = want.v2
		}
		if got := groupFile(t, want.controller, spec.Linux.CgroupsPath, name); got != want.value+"\n" {
			t.Errorf("%s: %s, want %s", name, got, want.value)
		}
	}
	checkDumps(t, h)
	// Lower, so that the guest reaches it in a moment.
	const low = 480
	file := filepath.Join("/sys/fs/cgroup/memory", spec.Linux.CgroupsPath, "memory.limit_in_bytes")
	if unified() {
		file = filepath.Join("/sys/fs/cgroup", spec.Linux.CgroupsPath, "memory.max")
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(low<<20)), 0); err != nil {
		t.Fatal(err)
	}
	out := h.Must("exec", d.id, "/bin/sh", "-c", `dd if=/dev/zero of=/big bs=1M count=160 2>/dev/null && cat /big | wc -c; rm /big; echo alive`)
	if out != strconv.Itoa(160<<20)+"\nalive\n" {
		t.Errorf("the container said %q", out)
	}
	if status := stateOf(h, d.id).Status; status != "running" {
		t.Errorf("it is %s", status)
	}
	events := "memory.oom_control"
	if unified() {
		events = "memory.events"
	}
	if text := groupFile(t, "memory", spec.Linux.CgroupsPath, events); !strings.Contains(text, "oom_kill 0\n") {
		t.Errorf("the kernel has ended processes: %s", text)
	}
	h.Must("kill", d.id, "KILL")
	h.Reap(d.pid)
	h.Must("delete", d.id)
}

// checkDumps finds processes in whose core dumps the guest's memory could be.
func checkDumps(t *testing.T, h *harness.Host) {
	t.Helper()
	mapped := 0
	for _, p := range h.Processes() {
		dir := filepath.Join("/proc", strconv.Itoa(p.PID))
		maps, err := os.ReadFile(filepath.Join(dir, "smaps"))
		if err != nil {
			t.Fatal(err)
		}
		limits, err := os.ReadFile(filepath.Join(dir, "limits"))
		if err != nil {
			t.Fatal(err)
		}
		none := regexp.MustCompile(`(?m)^Max core file size +[01] +[01] `).Match(limits)
		guest := false
		for line := range strings.Lines(string(maps)) {
			if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok {
				if guest && !none && !slices.Contains(strings.Fields(flags), "dd") {
					t.Errorf("%s: the guest's memory would be in a core dump: %s", p, line)
				}
				guest = false
			} else if strings.Contains(line, "memfd:memory-backend") {
				guest = true
				mapped++
			}
		}
	}
	if mapped == 0 {
		t.Error("nobody maps the guest's memory")
	}
}
