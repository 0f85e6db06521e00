package metrics_test

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/metrics"
)

// sandbox is one whose guest says what a test wants.
type sandbox struct {
	measured virtcontainers.Measurements
	err      error
}

func (s *sandbox) Machine() hypervisor.Info {
	return hypervisor.Info{
		State: hypervisor.StateRunning, PID: os.Getpid(), VCPUThreads: []int{os.Getpid()},
		Size: hypervisor.Size{VCPUs: 2, MemoryMiB: 256}, Driver: "qemu", Version: "7.2", Accelerator: "tcg",
	}
}

func (s *sandbox) Helpers() map[string]int {
	return map[string]int{"virtiofsd": os.Getpid(), "passt": 1 << 30}
}
func (s *sandbox) Made() time.Time { return time.Unix(1_700_000_000, 500_000_000) }
func (s *sandbox) Timings() []virtcontainers.Timing {
	return []virtcontainers.Timing{
		{Stage: virtcontainers.StageStartVMM, Begin: time.Second, Duration: 2 * time.Second},
		{Stage: virtcontainers.StageCreateContainer, Begin: 3 * time.Second, Duration: time.Second},
		{Stage: virtcontainers.StageCreateContainer, Begin: 9 * time.Second, Duration: 9 * time.Second},
	}
}
func (s *sandbox) Containers() int { return 1 }
func (s *sandbox) Streams() uint64 { return 5 }
func (s *sandbox) Measure(context.Context) (virtcontainers.Measurements, error) {
	return s.measured, s.err
}

// find returns the one sample with these labels.
func find(t *testing.T, samples []metrics.Sample, name string, labels ...string) float64 {
	t.Helper()
	var found []metrics.Sample
	for _, s := range samples {
		if s.Name == name && slices.Equal(s.Labels, labels) {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Errorf("%d samples of %s %v", len(found), name, labels)
		return math.NaN()
	}
	return found[0].Value
}

func names(samples []metrics.Sample) map[string]bool {
	set := make(map[string]bool)
	for _, s := range samples {
		set[s.Name] = true
	}
	return set
}

func TestCollect(t *testing.T) {
	box := &sandbox{measured: virtcontainers.Measurements{
		Guest: []*protocol.Measurement{
			{Figure: protocol.Figure_MEMORY_FREE_BYTES, Value: 1000},
			{Figure: protocol.Figure_CPU_USER_SECONDS, Value: 1.5},
			{Figure: protocol.Figure_PRESSURE_IO_FULL_SECONDS, Value: 2.5},
			{Figure: protocol.Figure_AGENT_GOROUTINES, Value: 20},
		},
		Containers: map[string][]*protocol.Measurement{"c1": {
			{Figure: protocol.Figure_CONTAINER_CPU_SYSTEM_SECONDS, Value: 0.5},
			{Figure: protocol.Figure_CONTAINER_MEMORY_LIMIT_BYTES, Value: 4096},
		}},
	}}
	samples, err := metrics.Collect(t.Context(), box)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		value  float64
		name   string
		labels []string
	}{
		{1_700_000_000.5, "kata_pod_start_time_seconds", nil},
		{1, "kata_pod_containers", nil},
		{2, "kata_boot_stage_duration_seconds", []string{"start_vmm"}},
		{1, "kata_boot_stage_duration_seconds", []string{"create_container"}},
		{3, "kata_boot_stage_start_seconds", []string{"create_container"}},
		{1, "kata_vm_running", nil},
		{1, "kata_vm_info", []string{"qemu", "7.2", "tcg"}},
		{2, "kata_vm_vcpus", nil},
		{256 << 20, "kata_vm_memory_bytes", nil},
		{5, "kata_vsock_streams_opened_total", nil},
		{1, "kata_guest_up", nil},
		{1000, "kata_guest_memory_free_bytes", nil},
		{1.5, "kata_guest_cpu_seconds_total", []string{"user"}},
		{2.5, "kata_guest_pressure_stalled_seconds_total", []string{"io"}},
		{20, "kata_agent_goroutines", nil},
		{0.5, "kata_container_cpu_seconds_total", []string{"c1", "system"}},
		{4096, "kata_container_memory_limit_bytes", []string{"c1"}},
	} {
		if got := find(t, samples, want.name, want.labels...); got != want.value {
			t.Errorf("%s %v is %v, want %v", want.name, want.labels, got, want.value)
		}
	}
	for _, process := range []string{"owner", "vmm", "virtiofsd"} {
		for _, name := range []string{"resident_memory_bytes", "proportional_memory_bytes", "threads", "open_fds"} {
			if find(t, samples, "kata_process_"+name, process) <= 0 {
				t.Errorf("kata_process_%s of %s", name, process)
			}
		}
		find(t, samples, "kata_process_cpu_seconds_total", process, "user")
	}
	find(t, samples, "kata_vm_vcpu_cpu_seconds_total", "0")
	for _, s := range samples {
		if slices.Contains(s.Labels, "passt") {
			t.Errorf("a process that has ended was measured: %v", s)
		}
	}
}

// TestEverySampleHasItsFamily: with as many labels, and each figure of the protocol
// goes somewhere.
func TestEverySampleHasItsFamily(t *testing.T) {
	box := &sandbox{measured: virtcontainers.Measurements{Containers: map[string][]*protocol.Measurement{}}}
	for number := range protocol.Figure_name {
		if figure := protocol.Figure(number); figure != protocol.Figure_FIGURE_UNKNOWN {
			m := &protocol.Measurement{Figure: figure, Value: 1}
			box.measured.Guest = append(box.measured.Guest, m)
			box.measured.Containers["c1"] = append(box.measured.Containers["c1"], m)
		}
	}
	samples, err := metrics.Collect(t.Context(), box)
	if err != nil {
		t.Fatal(err)
	}
	families := make(map[string]metrics.Family)
	for _, f := range metrics.Families() {
		families[f.Name] = f
	}
	measured := names(samples)
	for name := range families {
		if !measured[name] {
			t.Errorf("nobody measures %s", name)
		}
	}
	for _, s := range samples {
		f, ok := families[s.Name]
		if !ok || len(f.Labels) != len(s.Labels) {
			t.Errorf("%s %v has the family %v", s.Name, s.Labels, f)
		}
		if ofContainer := strings.HasPrefix(s.Name, "kata_container_"); ofContainer != slices.Contains(s.Labels, "c1") {
			t.Errorf("%s %v", s.Name, s.Labels)
		}
	}
}

// TestAGuestIsNotBelieved: what no honest guest says is dropped.
func TestAGuestIsNotBelieved(t *testing.T) {
	of := protocol.Figure_LOAD_1
	for _, list := range [][]*protocol.Measurement{
		{{Figure: of, Value: math.NaN()}},
		{{Figure: of, Value: math.Inf(1)}},
		{{Figure: of, Value: -1}},
		{{Figure: 4711, Value: 1}},
		{{Figure: protocol.Figure_FIGURE_UNKNOWN, Value: 1}},
		{{Figure: protocol.Figure_CONTAINER_PIDS, Value: 1}}, // of the guest itself
		{nil},
	} {
		samples, err := metrics.Collect(t.Context(), &sandbox{measured: virtcontainers.Measurements{
			Guest: list, Containers: map[string][]*protocol.Measurement{"c1": {{Figure: of, Value: 1}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range samples {
			if s.Name == "kata_guest_load1" || strings.HasPrefix(s.Name, "kata_container_") {
				t.Errorf("%v became %v", list, s)
			}
		}
	}
	samples, err := metrics.Collect(t.Context(), &sandbox{measured: virtcontainers.Measurements{
		Guest: slices.Repeat([]*protocol.Measurement{{Figure: of, Value: 1}, {Figure: of, Value: 2}}, 1000),
	}})
	if err != nil || find(t, samples, "kata_guest_load1") != 1 {
		t.Errorf("%d samples, %v", len(samples), err)
	}
}

func TestAGuestThatDoesNotAnswer(t *testing.T) {
	silence := errors.New("silence")
	samples, err := metrics.Collect(t.Context(), &sandbox{err: silence})
	if !errors.Is(err, silence) || find(t, samples, "kata_guest_up") != 0 || find(t, samples, "kata_vm_running") != 1 {
		t.Errorf("%v", err)
	}
}
