package stats_test

import (
	"testing"

	cgroup "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"kata-runtime/virtcontainers/shim/stats"
)

func TestSum(t *testing.T) {
	one, err := stats.Convert(recorded)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := stats.Sum([]*anypb.Any{one, one})
	if err != nil {
		t.Fatal(err)
	}
	var of, twice cgroup.Metrics
	if err := typeurl.UnmarshalTo(one, &of); err != nil {
		t.Fatal(err)
	}
	if err := typeurl.UnmarshalTo(sum, &twice); err != nil {
		t.Fatal(err)
	}
	for name, values := range map[string][2]uint64{
		"cpu":    {of.GetCPU().GetUsageUsec(), twice.GetCPU().GetUsageUsec()},
		"memory": {of.GetMemory().GetUsage(), twice.GetMemory().GetUsage()},
		"pids":   {of.GetPids().GetCurrent(), twice.GetPids().GetCurrent()},
	} {
		if values[0] == 0 || values[1] != 2*values[0] {
			t.Errorf("%s: %d twice is %d", name, values[0], values[1])
		}
	}
	if none, err := stats.Sum(nil); err != nil || none.GetTypeUrl() != one.GetTypeUrl() {
		t.Errorf("of nothing: %v, %v", none, err)
	}
}
