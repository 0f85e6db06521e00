package container

import (
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// families lists seccomp's names of an architecture and of what its kernel runs besides,
// by Go's names, its own first.
func families() map[string][]specs.Arch {
	return map[string][]specs.Arch{
		"amd64": {specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		"arm64": {specs.ArchAARCH64, specs.ArchARM},
	}
}

// translateFilter makes a filter one for this guest. Container managers resolve their
// profiles on the host, for its architectures: a filter that names none of this guest's
// would let no program of theirs in, and one of 32 bits be killed.
func translateFilter(filter *specs.LinuxSeccomp) { translateFilterFor(filter, runtime.GOARCH) }

func translateFilterFor(filter *specs.LinuxSeccomp, here string) {
	own, ok := families()[here]
	if filter == nil || !ok {
		return
	}
	ours := func(arch specs.Arch) bool { return slices.Contains(own, arch) }
	if len(filter.Architectures) == 0 || slices.ContainsFunc(filter.Architectures, ours) {
		return
	}
	filter.Architectures = slices.Clone(own)
	if here == "arm64" {
		filter.Syscalls = append(filter.Syscalls, armCalls(filter.Syscalls)...)
	}
}

// armCalls are the system calls of ARM alone, which the profiles of container managers
// permit there. They go where arch_prctl went, by which programs on x86 do what some of
// these are for: without a rule for that, the profile has none for them.
func armCalls(rules []specs.LinuxSyscall) []specs.LinuxSyscall {
	for _, rule := range rules {
		if slices.Contains(rule.Names, "arch_prctl") && len(rule.Args) == 0 {
			return []specs.LinuxSyscall{{
				Names:  []string{"arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"},
				Action: rule.Action, ErrnoRet: rule.ErrnoRet,
			}}
		}
	}
	return nil
}
