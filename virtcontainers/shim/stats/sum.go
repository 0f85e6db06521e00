package stats

import (
	"fmt"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// Sum is what containers use together, of messages that Convert has made: time,
// memory and processes.
func Sum(messages []*anypb.Any) (*anypb.Any, error) {
	sum := &stats.Metrics{CPU: &stats.CPUStat{}, Memory: &stats.MemoryStat{}, Pids: &stats.PidsStat{}}
	for _, message := range messages {
		var one stats.Metrics
		if err := typeurl.UnmarshalTo(message, &one); err != nil {
			return nil, fmt.Errorf("add up statistics: %w", err)
		}
		sum.CPU.UsageUsec += one.GetCPU().GetUsageUsec()
		sum.CPU.UserUsec += one.GetCPU().GetUserUsec()
		sum.CPU.SystemUsec += one.GetCPU().GetSystemUsec()
		sum.Memory.Usage += one.GetMemory().GetUsage()
		sum.Memory.Anon += one.GetMemory().GetAnon()
		sum.Memory.File += one.GetMemory().GetFile()
		sum.Memory.InactiveFile += one.GetMemory().GetInactiveFile()
		sum.Memory.SwapUsage += one.GetMemory().GetSwapUsage()
		sum.Pids.Current += one.GetPids().GetCurrent()
	}
	message, err := typeurl.MarshalAnyToProto(sum)
	if err != nil {
		return nil, fmt.Errorf("add up statistics: %w", err)
	}
	return message, nil
}
