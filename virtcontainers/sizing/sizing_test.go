package sizing

import (
	"math"
	"os"
	"os/exec"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
)

func limits(memory, quota int64, period uint64) *specs.LinuxResources {
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}}
	if memory != 0 {
		r.Memory.Limit = &memory
	}
	if quota != 0 {
		r.CPU.Quota = &quota
	}
	if period != 0 {
		r.CPU.Period = &period
	}
	return r
}

func TestOf(t *testing.T) {
	for name, test := range map[string]struct {
		resources *specs.LinuxResources
		want      Demand
	}{
		"nothing":         {nil, Demand{}},
		"no limits":       {&specs.LinuxResources{}, Demand{}},
		"empty":           {limits(0, 0, 0), Demand{}},
		"default period":  {limits(0, 50000, 0), Demand{MilliCPUs: 500}},
		"period":          {limits(0, 50000, 25000), Demand{MilliCPUs: 2000}},
		"rounded up":      {limits(0, 1, 0), Demand{MilliCPUs: 1}},
		"no quota":        {limits(0, -1, 100000), Demand{}},
		"memory":          {limits(64<<20, 0, 0), Demand{MemoryBytes: 64 << 20}},
		"no memory limit": {limits(-1, 0, 0), Demand{}},
		"all memory":      {limits(math.MaxInt64, 0, 0), Demand{}},
		"all pages":       {limits(math.MaxInt64&^4095, 0, 0), Demand{}},
		"a large quota":   {limits(0, math.MaxInt64, 1), Demand{MilliCPUs: 1 << 40}},
	} {
		if got := Of(test.resources); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestOfSandbox(t *testing.T) {
	for name, test := range map[string]struct {
		quota, period, shares, memory string
		want                          Demand
	}{
		"nothing":           {"", "", "", "", Demand{}},
		"quota":             {"200000", "100000", "1024", "1048576", Demand{MilliCPUs: 2000, MemoryBytes: 1 << 20}},
		"shares":            {"0", "100000", "1536", "", Demand{MilliCPUs: 1500}},
		"no request":        {"-1", "", "2", "0", Demand{}},
		"not numbers":       {"x", "", "y", "z", Demand{}},
		"shares and beyond": {"", "", "9999999999", "", Demand{MilliCPUs: 256000}},
	} {
		got := OfSandbox(map[string]string{
			annotationQuota: test.quota, annotationPeriod: test.period, annotationShares: test.shares, annotationMemory: test.memory,
		})
		if got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestAnnounce(t *testing.T) {
	want := Demand{MilliCPUs: 1500, MemoryBytes: 7 << 20}
	if got := OfSandbox(Annotations(100000, 150000, 1024, 7<<20)); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := OfSandbox(Annotations(0, 0, 2, 0)); got != (Demand{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestSize(t *testing.T) {
	policy := Policy{Default: hypervisor.Size{VCPUs: 1, MemoryMiB: 2048}, Max: hypervisor.Size{VCPUs: 8, MemoryMiB: 16384}}
	for name, test := range map[string]struct {
		demand Demand
		want   hypervisor.Size
		capped bool
	}{
		"nothing":             {Demand{}, hypervisor.Size{VCPUs: 1, MemoryMiB: 2048}, false},
		"rounded up":          {Demand{MilliCPUs: 1001, MemoryBytes: 1}, hypervisor.Size{VCPUs: 3, MemoryMiB: 2049}, false},
		"as much as there is": {Demand{MilliCPUs: 8000, MemoryBytes: 16384 << 20}, policy.Max, false},
		"too much":            {Demand{MilliCPUs: 8001, MemoryBytes: 1 << 20}, hypervisor.Size{VCPUs: 8, MemoryMiB: 2049}, true},
		"far too much":        {Demand{MilliCPUs: math.MaxInt64, MemoryBytes: math.MaxInt64}, policy.Max, true},
	} {
		got, capped := policy.Size(test.demand)
		if got != test.want || capped != test.capped {
			t.Errorf("%s: %+v, %v", name, got, capped)
		}
	}
	most := Demand{MilliCPUs: math.MaxInt64, MemoryBytes: math.MaxInt64}
	if got := most.Plus(most); got != most {
		t.Errorf("the sum of all and all is %+v", got)
	}
}

func TestMerge(t *testing.T) {
	old := limits(1<<20, 50000, 100000)
	merged, err := Merge(old, []byte(`{"memory":{"limit":2097152},"cpu":{"cpus":"0-1"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Of(merged), (Demand{MilliCPUs: 500, MemoryBytes: 2 << 20}); got != want || merged.CPU.Cpus != "0-1" {
		t.Errorf("%+v on %q, want %+v", got, merged.CPU.Cpus, want)
	}
	if *old.Memory.Limit != 1<<20 {
		t.Error("the original has changed")
	}
	if _, err := Merge(nil, []byte(`{}`)); err != nil {
		t.Error(err)
	}
	if _, err := Merge(nil, []byte(`{"memory":7}`)); err == nil {
		t.Error("a wrong document is taken")
	}
}

func set(cpus ...int) unix.CPUSet {
	var s unix.CPUSet
	for _, cpu := range cpus {
		s.Set(cpu)
	}
	return s
}

func TestParseCPUs(t *testing.T) {
	if got, err := ParseCPUs("0-2, 5"); err != nil || got != set(0, 1, 2, 5) {
		t.Errorf("%v, %v", got, err)
	}
	for _, list := range []string{"", "x", "1-", "-1", "2-1", "0-99999999", "1,,2"} {
		if _, err := ParseCPUs(list); err == nil {
			t.Errorf("%q is taken", list)
		}
	}
}

func TestUnion(t *testing.T) {
	everything := set(0, 1, 2, 3)
	for name, test := range map[string]struct {
		lists []string
		want  unix.CPUSet
	}{
		"none":           {nil, everything},
		"two":            {[]string{"0", "2-3"}, set(0, 2, 3)},
		"what is not":    {[]string{"1,7"}, set(1)},
		"nothing of it":  {[]string{"7"}, everything},
		"cannot be read": {[]string{"0", "x"}, everything},
	} {
		if got := Union(test.lists, everything); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A VMM that names a thread of another process gets nothing changed there.
func TestPinLeavesForeignThreadsAlone(t *testing.T) {
	other := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if all.Count() < 2 {
		t.Fatal("this takes two CPUs")
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	affinity := func(pid int) (set unix.CPUSet) {
		t.Helper()
		if err := unix.SchedGetaffinity(pid, &set); err != nil {
			t.Fatal(err)
		}
		return set
	}
	before := affinity(0)
	if err := Pin(os.Getpid(), []int{other.Process.Pid, 0, -1, 1}, one); err != nil {
		t.Error(err)
	}
	if got := affinity(other.Process.Pid); got != all {
		t.Errorf("the other process is bound to %v", got)
	}
	if affinity(0) != before {
		t.Error("the caller is bound")
	}
	if err := Pin(other.Process.Pid, []int{other.Process.Pid}, one); err != nil {
		t.Error(err)
	}
	if got := affinity(other.Process.Pid); got != one {
		t.Errorf("the process's own thread is bound to %v", got)
	}
}
