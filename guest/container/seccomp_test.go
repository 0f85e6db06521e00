package container

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestTranslateFilter(t *testing.T) {
	profile := func(arches ...specs.Arch) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno, Architectures: arches,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}, {Names: []string{"arch_prctl"}, Action: specs.ActLog}},
		}
	}
	translateFilterFor(nil, "arm64")
	for name, test := range map[string]struct {
		given []specs.Arch
		here  string
		want  []specs.Arch
		added bool
	}{
		"x86's, on arm":        {[]specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, "arm64", []specs.Arch{specs.ArchAARCH64, specs.ArchARM}, true},
		"arm's, on x86":        {[]specs.Arch{specs.ArchAARCH64}, "amd64", []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, false},
		"its own":              {[]specs.Arch{specs.ArchAARCH64}, "arm64", []specs.Arch{specs.ArchAARCH64}, false},
		"its own among others": {[]specs.Arch{specs.ArchX86_64, specs.ArchAARCH64}, "arm64", []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64}, false},
		"none":                 {nil, "arm64", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			filter := profile(test.given...)
			translateFilterFor(filter, test.here)
			if !slices.Equal(filter.Architectures, test.want) {
				t.Errorf("architectures %v, want %v", filter.Architectures, test.want)
			}
			last := filter.Syscalls[len(filter.Syscalls)-1]
			if added := slices.Contains(last.Names, "set_tls"); added != test.added {
				t.Errorf("calls of ARM added: %v, want %v", added, test.added)
			} else if added && last.Action != specs.ActLog {
				t.Errorf("their action is %s", last.Action)
			}
		})
	}
}
