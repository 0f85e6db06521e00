package cgroup_test

import (
	"testing"

	"kata-runtime/virtcontainers/cgroup"
)

// What nobody asks for any more is not left as a limit.
func TestLimitsAfter(t *testing.T) {
	for _, c := range []struct{ now, before, want cgroup.Limits }{
		{cgroup.Limits{}, cgroup.Limits{}, cgroup.Limits{}},
		{cgroup.Limits{MemoryBytes: 7}, cgroup.Limits{}, cgroup.Limits{MemoryBytes: 7}},
		{cgroup.Limits{MilliCPUs: 7}, cgroup.Limits{MemoryBytes: 8, MilliCPUs: 9}, cgroup.Limits{MemoryBytes: -1, MilliCPUs: 7}},
		{cgroup.Limits{}, cgroup.Limits{MilliCPUs: 9}, cgroup.Limits{MilliCPUs: -1}},
	} {
		if got := c.now.After(c.before); got != c.want {
			t.Errorf("%+v after %+v: %+v, want %+v", c.now, c.before, got, c.want)
		}
	}
}
