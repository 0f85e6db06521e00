package container

import (
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// onlineCPUs returns the guest's processors, as a list like "0-3".
func onlineCPUs() string {
	data, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// fitCpuset drops a cpuset that names processors the guest does not have:
// those are numbers of the host, whose scheduler the guest cannot direct. The
// guest has one memory node.
func fitCpuset(log *slog.Logger, resources *specs.LinuxResources, online string) {
	if resources == nil || resources.CPU == nil {
		return
	}
	cpu := resources.CPU
	if cpu.Mems != "" && cpu.Mems != "0" {
		log.Debug("memory nodes of the host are not known in the guest", "mems", cpu.Mems)
		cpu.Mems = ""
	}
	if cpu.Cpus == "" || online == "" {
		return
	}
	if have, want := parseList(online), parseList(cpu.Cpus); !subset(want, have) {
		log.Debug("processors of the host are not known in the guest", "cpus", cpu.Cpus, "online", online)
		cpu.Cpus = ""
	}
}

// parseList reads a kernel list like "0-2,5". What it cannot read is left out,
// for the kernel to refuse.
func parseList(list string) map[int]bool {
	const maxCPU = 1 << 16
	set := map[int]bool{}
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		from, err := strconv.Atoi(first)
		to := from
		if err == nil && ranged {
			to, err = strconv.Atoi(last)
		}
		if err != nil || from < 0 || to > maxCPU {
			continue
		}
		for n := from; n <= to; n++ {
			set[n] = true
		}
	}
	return set
}

func subset(small, large map[int]bool) bool {
	for n := range small {
		if !large[n] {
			return false
		}
	}
	return true
}
