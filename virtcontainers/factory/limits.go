package factory

import (
	"log/slog"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/sizing"
)

const (
	// unlimitedMiB is what the processes of a pod may use besides, whose containers
	// have no memory limit: their callers do not count either. It has room for
	// some hundred processes that are added, with a stand-in of 3 MiB each.
	unlimitedMiB = 1024
	// maxTasks is the most threads of a pod's processes: those of a VMM (2048), and
	// of a thousand stand-ins. It is there for a process that has been taken over.
	maxTasks = 16384
)

// hostLimits are those of the pod's control group on the host. A container's
// limit as it stands would kill the VMM, which needs memory for what the guest
// uses beside its containers and for itself, of which overheadMiB is the driver's
// own. Memory and threads have a bound whatever the containers' limits: the kernel
// counts there, too, what it holds for the guest, such as open files. CPU time that
// nobody limits stays without, as a container's does.
func hostLimits(size hypervisor.Size, demand sizing.Demand, settings *config.Runtime, overheadMiB int) cgroup.Limits {
	memory := size.MemoryMiB + settings.OverheadMemoryMiB + overheadMiB
	if demand.MemoryBytes <= 0 {
		memory += unlimitedMiB
	}
	limits := cgroup.Limits{MemoryBytes: int64(memory) << 20, Tasks: maxTasks}
	if demand.MilliCPUs > 0 {
		limits.MilliCPUs = demand.MilliCPUs + int64(settings.OverheadVCPUs)*1000
	}
	return limits
}

// limitHost sets the limits of the pod's group for the machine's first size and what
// is asked for by then, and returns what sets them again. A limit that nobody asks
// for any more goes. A host that has no control groups for what nobody asks for
// is no error, but a warning.
func limitHost(spec Spec, machine hypervisor.Info, size hypervisor.Size, demand sizing.Demand) (func(hypervisor.Size, sizing.Demand) error, error) {
	l := &limiter{group: spec.Group.Limit, settings: &spec.Config.Runtime, overheadMiB: machine.OverheadMiB, log: spec.Log}
	return l.limit, l.limit(size, demand)
}

// limiter sets the limits of a group again and again.
type limiter struct {
	group       func(cgroup.Limits) error
	settings    *config.Runtime
	overheadMiB int
	log         *slog.Logger
	last        cgroup.Limits
	// absent are the bounds, of those that nobody asks for, that this host cannot set.
	absent []func(*cgroup.Limits, sizing.Demand)
}

func (l *limiter) limit(size hypervisor.Size, demand sizing.Demand) error {
	limits := hostLimits(size, demand, l.settings, l.overheadMiB)
	for _, leaveOut := range l.absent {
		leaveOut(&limits, demand)
	}
	err := l.group(limits.After(l.last))
	for _, leaveOut := range []func(*cgroup.Limits, sizing.Demand){withoutTasks, withoutMemory} {
		if err == nil {
			break
		}
		fewer := limits
		leaveOut(&fewer, demand)
		if fewer == limits {
			continue
		}
		if l.group(fewer.After(l.last)) == nil {
			l.log.Warn("a bound of the pod on the host cannot be set", "limits", fewer, "reason", err)
			l.absent, limits, err = append(l.absent, leaveOut), fewer, nil
		}
	}
	if err != nil {
		return err
	}
	l.last = limits
	return nil
}

// withoutTasks and withoutMemory take away bounds that nobody asks for.
func withoutTasks(limits *cgroup.Limits, _ sizing.Demand) { limits.Tasks = 0 }

func withoutMemory(limits *cgroup.Limits, demand sizing.Demand) {
	limits.Tasks = 0
	if demand.MemoryBytes <= 0 {
		limits.MemoryBytes = 0
	}
}
