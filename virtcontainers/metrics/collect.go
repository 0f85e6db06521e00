package metrics

import (
	"context"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
)

func compare(a, b string) int { return strings.Compare(a, b) }

// Sandbox is what is measured, as *virtcontainers.Sandbox.
type Sandbox interface {
	Machine() hypervisor.Info
	Helpers() map[string]int
	Made() time.Time
	Timings() []virtcontainers.Timing
	Containers() int
	Streams() uint64
	Measure(ctx context.Context) (virtcontainers.Measurements, error)
}

// samples are collected in it.
type samples []Sample

func (s *samples) add(name string, value float64, labels ...string) {
	*s = append(*s, Sample{Name: name, Labels: labels, Value: value})
}

// Collect measures a pod whose owner is this process. A guest that does not answer
// within ctx is reported as that. The error is the guest's, for a log.
func Collect(ctx context.Context, box Sandbox) ([]Sample, error) {
	var s samples
	s.add(podStart, float64(box.Made().UnixNano())/1e9)
	s.add(podContainers, float64(box.Containers()))
	s.stages(box.Timings())
	s.machine(box.Machine())
	s.add(streamsOpened, float64(box.Streams()))
	s.process("owner", os.Getpid(), false)
	helpers := box.Helpers()
	for _, name := range slices.Sorted(maps.Keys(helpers)) {
		s.process(name, helpers[name], true)
	}
	measured, err := box.Measure(ctx)
	if err != nil {
		s.add(guestUp, 0)
		return s, err
	}
	s.add(guestUp, 1)
	s.guest(measured)
	return s, nil
}

// stages of containers are those of the first that went through them.
func (s *samples) stages(timings []virtcontainers.Timing) {
	seen := make(map[virtcontainers.Stage]bool)
	for _, t := range timings {
		if !seen[t.Stage] {
			seen[t.Stage] = true
			stage := strings.ToLower(strings.ReplaceAll(string(t.Stage), " ", "_"))
			s.add(stageStart, t.Begin.Seconds(), stage)
			s.add(stageDuration, t.Duration.Seconds(), stage)
		}
	}
}

func (s *samples) machine(info hypervisor.Info) {
	running := 0.0
	if info.State == hypervisor.StateRunning {
		running = 1
	}
	s.add(vmRunning, running)
	s.add(vmInfo, 1, info.Driver, info.Version, info.Accelerator)
	s.add(vmVCPUs, float64(info.Size.VCPUs))
	const mebi = 1 << 20
	s.add(vmMemory, float64(info.Size.MemoryMiB)*mebi)
	for i, thread := range info.VCPUThreads {
		path := "/proc/" + strconv.Itoa(info.PID) + "/task/" + strconv.Itoa(thread) + "/stat"
		if stat, ok := readStat(path); ok {
			s.add(vmVCPUTime, stat.user+stat.system, strconv.Itoa(i))
		}
	}
	if info.PID > 0 && info.State != hypervisor.StateEnded {
		s.process("vmm", info.PID, true)
	}
}

// process measures a process of the host, and with family those that it has
// started. One that has ended is left out.
func (s *samples) process(name string, pid int, family bool) {
	usage, ok := measureProcess(pid, family)
	if !ok {
		return
	}
	s.add(processCPU, usage.user, name, "user")
	s.add(processCPU, usage.system, name, "system")
	s.add(processThreads, usage.threads, name)
	if usage.memory {
		s.add(processResident, usage.resident, name)
		s.add(processShare, usage.share, name)
	}
	if usage.files {
		s.add(processFiles, usage.openFiles, name)
	}
}

// guest takes what the guest says of itself and of the containers.
func (s *samples) guest(measured virtcontainers.Measurements) {
	figures := make(map[protocol.Figure]figure)
	for _, f := range guestFigures() {
		figures[f.of] = f
	}
	for _, m := range credible(measured.Guest, figures) {
		if f := figures[m.GetFigure()]; !f.ofContainer() {
			s.add(f.Name, m.GetValue(), f.values()...)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(measured.Containers)) {
		for _, m := range credible(measured.Containers[id], figures) {
			if f := figures[m.GetFigure()]; f.ofContainer() {
				s.add(f.Name, m.GetValue(), append([]string{id}, f.values()...)...)
			}
		}
	}
}

// values are those of the labels that the figure itself decides.
func (f *figure) values() []string {
	if f.label == "" {
		return nil
	}
	return []string{f.label}
}

// credible drops what no honest guest says: a figure that nobody knows, or said
// before, or that is no number of its kind.
func credible(list []*protocol.Measurement, known map[protocol.Figure]figure) []*protocol.Measurement {
	seen := make(map[protocol.Figure]bool)
	var kept []*protocol.Measurement
	for _, m := range list {
		of, value := m.GetFigure(), m.GetValue()
		if _, ok := known[of]; !ok || seen[of] || math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
			continue
		}
		seen[of] = true
		kept = append(kept, m)
	}
	return kept
}
