//go:build vm

package vm

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// eventLine is one line of the events command.
type eventLine struct {
	Type, ID string
	Data     struct {
		CPU struct {
			Usage struct{ Total uint64 }
		}
		Memory struct {
			Usage struct{ Usage, Limit uint64 }
		}
		MemoryEvents map[string]uint64 `json:"memory_events"`
		Pids         struct{ Current, Limit uint64 }
	}
}

// TestOutOfMemory lets processes of one container take more than the
// container's limit, first one beside its init, then the init itself.
func TestOutOfMemory(t *testing.T) {
	const limit = 32 << 20
	h := harness.New(t)
	spec := bundle.Spec("/bin/sh", "-c", "trap 'exec "+takeMemory+"' TERM; echo ready; sleep 100000 & wait")
	memory := int64(limit)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	id, pidFile := h.ID(), h.File("pid")
	start(h, spec, id, pidFile)

	var stats eventLine
	decode(h, h.Must("events", "--stats", id), &stats)
	if stats.Type != "stats" || stats.ID != id || stats.Data.Memory.Usage.Limit != limit ||
		stats.Data.CPU.Usage.Total == 0 || stats.Data.Memory.Usage.Usage == 0 || stats.Data.Pids.Current < 2 {
		t.Errorf("statistics: %+v", stats)
	}

	command := h.Command("events", "--interval", "20ms", id)
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	if !nextEvent(t, lines, "stats", id) {
		t.Fatal("no statistics")
	}
	wantCode(t, h.Run(append([]string{"exec", id}, strings.Fields(takeMemory)...)...), 137)
	if !nextEvent(t, lines, "oom", id) {
		t.Error("no event when a process ran out of memory")
	}
	decode(h, h.Must("events", "--stats", id), &stats)
	if events := stats.Data.MemoryEvents; events["oom_kill"] != 1 || events["oom"] == 0 || events["max"] == 0 {
		t.Errorf("events of memory: %v", events)
	}
	if s := stateOf(h, id); s.Status != "running" {
		t.Errorf("status %q after another process ran out of memory", s.Status)
	}
	if out := h.Must("exec", id, "/bin/echo", "goes on"); out != "goes on\n" {
		t.Errorf("exec afterwards: %q", out)
	}

	h.Must("kill", id, "TERM")
	if !nextEvent(t, lines, "oom", id) {
		t.Error("no event when the init ran out of memory")
	}
	for nextEvent(t, lines, "", id) {
	}
	if code := h.Wait(command); code != 0 {
		t.Errorf("events: exit code %d after the container's end", code)
	}
	if code := h.Reap(number(t, pidFile)); code != 137 {
		t.Errorf("exit code %d of the container", code)
	}
	for _, flags := range [][]string{{"events", id}, {"events", "--stats", id}} {
		result := h.Run(flags...)
		wantCode(t, result, 1)
		if !strings.Contains(result.Stderr, "container with id "+id+" is not running") {
			t.Errorf("%v of a stopped container: %q", flags, result.Stderr)
		}
	}
	h.Must("delete", id)
}

// takeMemory allocates and touches 100 MB at once.
const takeMemory = "/bin/dd if=/dev/zero of=/dev/null bs=100M count=1"

// nextEvent reads up to the next line of a type, or one line for an empty one,
// and tells whether there was one.
func nextEvent(t *testing.T, lines *bufio.Scanner, kind, id string) bool {
	t.Helper()
	for lines.Scan() {
		var line eventLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.ID != id {
			t.Fatalf("line %s: %v", lines.Bytes(), err)
		}
		if kind == "" || line.Type == kind {
			return true
		}
	}
	return false
}

// start creates and starts a container whose program says that it is ready.
func start(h *harness.Host, spec *specs.Spec, id, pidFile string) {
	h.T.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		h.T.Fatal(err)
	}
	defer r.Close()
	command := h.Command("create", "--pid-file", pidFile, "-b", h.Bundle(spec), id)
	command.Stdout, command.Stderr = w, w
	result := h.Finish(command)
	w.Close()
	if result.Code != 0 {
		text, _ := io.ReadAll(r)
		h.T.Fatalf("create: exit code %d, %s", result.Code, text)
	}
	h.Must("start", id)
	h.Expect(r, "ready\n")
}
