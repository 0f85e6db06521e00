package stats_test

import (
	_ "embed"
	"fmt"
	"math"
	"strings"
	"testing"

	cgroup "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"kata-runtime/virtcontainers/shim/stats"
)

// recorded is what "kata-runtime events --stats" printed of a container with limits
// of 64 MiB, half a CPU and 100 processes, in which a process ran out of memory.
//
//go:embed testdata/stats.json
var recorded []byte

func TestConvertRecorded(t *testing.T) {
	message, err := stats.Convert(recorded)
	if err != nil {
		t.Fatal(err)
	}
	if message.GetTypeUrl() != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("the type is %s", message.GetTypeUrl())
	}
	// As containerd's CRI reads it.
	value, err := typeurl.UnmarshalAny(message)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := value.(*cgroup.Metrics)
	if !ok {
		t.Fatalf("it is %T", value)
	}
	want := &cgroup.Metrics{
		CPU: &cgroup.CPUStat{
			UsageUsec: 5828059, UserUsec: 594286, SystemUsec: 5233773, NrPeriods: 104, NrThrottled: 96, ThrottledUsec: 5538527,
		},
		Pids: &cgroup.PidsStat{Current: 1, Limit: 100},
		Memory: &cgroup.MemoryStat{
			Usage: 10522624, UsageLimit: 64 << 20, MaxUsage: 64 << 20, SwapLimit: math.MaxUint64,
			Anon: 49152, File: 9936896, KernelStack: 16384, Slab: 109416, InactiveAnon: 45056, ActiveAnon: 4096,
			InactiveFile: 9928704, ActiveFile: 8192, SlabReclaimable: 62320, SlabUnreclaimable: 47096,
			Pgfault: 19937, Pgmajfault: 71, Pgrefill: 210, Pgscan: 670, Pgsteal: 378, Pgactivate: 219, Pgdeactivate: 210,
		},
		MemoryEvents: &cgroup.MemoryEvents{Max: 29, Oom: 1, OomKill: 1},
		Io:           &cgroup.IOStat{},
		Hugetlb:      []*cgroup.HugeTlbStat{{Pagesize: "1GB"}, {Pagesize: "2MB"}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func metrics(t *testing.T, data string) *cgroup.Metrics {
	t.Helper()
	got, err := stats.Metrics([]byte(data))
	if err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return got
}

// runc adds memory to swap, as cgroups of version 1 have it, and lets the sum
// overflow.
func TestSwap(t *testing.T) {
	const unlimited = math.MaxUint64
	for _, test := range []struct {
		memory, swap           [2]uint64 // usage and limit, as the guest tells them
		wantUsage, wantMaximum uint64
	}{
		{[2]uint64{100, 1000}, [2]uint64{150, 1500}, 50, 500},
		{[2]uint64{100, 1000}, [2]uint64{100, 1000}, 0, 0},
		{[2]uint64{100, 1000}, [2]uint64{100, unlimited}, 0, unlimited},
		{[2]uint64{100, unlimited}, [2]uint64{100, unlimited}, 0, unlimited},
		{[2]uint64{100, unlimited}, [2]uint64{100, 499}, 0, 500},
		{[2]uint64{100, 1000}, [2]uint64{7, 8}, 0, 0}, // nonsense
	} {
		got := metrics(t, fmt.Sprintf(`{"memory":{"usage":{"usage":%d,"limit":%d},"swap":{"usage":%d,"limit":%d}}}`,
			test.memory[0], test.memory[1], test.swap[0], test.swap[1])).GetMemory()
		if got.GetSwapUsage() != test.wantUsage || got.GetSwapLimit() != test.wantMaximum ||
			got.GetUsage() != test.memory[0] || got.GetUsageLimit() != test.memory[1] {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

func TestDevicesPagesAndPressure(t *testing.T) {
	got := metrics(t, `{
		"cpu": {"psi": {"some": {"avg10": 1.5, "avg60": 2.5, "avg300": 3.5, "total": 4}}},
		"pids": {"current": 3},
		"blkio": {
			"ioServiceBytesRecursive": [{"major":253,"op":"Read","value":1},{"major":253,"op":"Write","value":2},{"major":253,"minor":16,"op":"Read","value":3}],
			"ioServicedRecursive": [{"major":253,"op":"Read","value":4},{"major":253,"op":"Write","value":5},{"major":253,"op":"Other","value":9}]
		},
		"hugetlb": {"2MB": {"usage": 1, "max": 2, "failcnt": 3}, "1GB": {"failcnt": 0}, "evil\"} 1\n": {"failcnt": 1}}
	}`)
	want := &cgroup.Metrics{
		CPU: &cgroup.CPUStat{PSI: &cgroup.PSIStats{
			Some: &cgroup.PSIData{Avg10: 1.5, Avg60: 2.5, Avg300: 3.5, Total: 4}, Full: &cgroup.PSIData{},
		}},
		Pids:   &cgroup.PidsStat{Current: 3, Limit: math.MaxUint64},
		Memory: &cgroup.MemoryStat{}, MemoryEvents: &cgroup.MemoryEvents{},
		Io: &cgroup.IOStat{Usage: []*cgroup.IOEntry{
			{Major: 253, Rbytes: 1, Wbytes: 2, Rios: 4, Wios: 5}, {Major: 253, Minor: 16, Rbytes: 3},
		}},
		Hugetlb: []*cgroup.HugeTlbStat{{Pagesize: "1GB"}, {Pagesize: "2MB", Current: 1, Max: 2, Failcnt: 3}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHostile(t *testing.T) {
	for _, data := range []string{
		"", "null", "[]", `"x"`, "{", `{"pids":{"current":-1}}`, `{"pids":{"current":1e99}}`, `{"memory":{"raw":[]}}`,
		`{"x":"` + strings.Repeat("x", 1<<20) + `"}`, strings.Repeat(`{"x":`, 20000),
	} {
		if got, err := stats.Convert([]byte(data)); err == nil {
			t.Errorf("%.40q gives %v", data, got)
		}
	}
	var devices []string
	for i := range 10000 {
		devices = append(devices, fmt.Sprintf(`{"major":%d,"op":"Read","value":1}`, i))
	}
	got := metrics(t, `{"blkio":{"ioServiceBytesRecursive":[`+strings.Join(devices, ",")+`]}}`)
	if n := len(got.GetIo().GetUsage()); n == 0 || n > 1000 {
		t.Errorf("%d devices", n)
	}
}

func FuzzConvert(f *testing.F) {
	f.Add(recorded)
	f.Add([]byte(`{"hugetlb":{"2MB":{"usage":1}},"memory":{"raw":{"anon":1},"psi":null},"memory_events":{"oom":1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		message, err := stats.Convert(data)
		if err != nil {
			return
		}
		if err := proto.Unmarshal(message.GetValue(), &cgroup.Metrics{}); err != nil {
			t.Error(err)
		}
		if len(message.GetValue()) > 1<<18 {
			t.Errorf("%d bytes", len(message.GetValue()))
		}
	})
}
