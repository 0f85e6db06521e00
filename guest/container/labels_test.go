package container

import (
	"log/slog"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A container has its labels where there are policies for them, and none otherwise.
func TestLabels(t *testing.T) {
	for name, test := range map[string]struct {
		applied                     *Labels
		appArmor, selinux, forMount string
	}{
		"no policies":     {},
		"none of the two": {applied: &Labels{}},
		"AppArmor":        {applied: &Labels{AppArmor: true}, appArmor: "a"},
		"SELinux":         {applied: &Labels{SELinux: true}, selinux: "s", forMount: "m"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Runtime{log: slog.New(slog.DiscardHandler)}
			if test.applied != nil {
				r.ApplyLabels(*test.applied)
			}
			process := specs.Process{ApparmorProfile: "a", SelinuxLabel: "s", Args: []string{"true"}, Cwd: "/"}
			spec := &specs.Spec{Process: &process, Linux: &specs.Linux{MountLabel: "m", Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}}}}
			if maySleep(spec) {
				t.Error("a label would not be tried")
			}
			r.chooseLabels("c", spec)
			if got := [3]string{process.ApparmorProfile, process.SelinuxLabel, spec.Linux.MountLabel}; got != [3]string{test.appArmor, test.selinux, test.forMount} {
				t.Errorf("labels %q", got)
			}
			lp, err := newProcess(&process)
			if err != nil {
				t.Fatal(err)
			}
			if lp.AppArmorProfile != test.appArmor || lp.Label != test.selinux {
				t.Errorf("the process has %q and %q", lp.AppArmorProfile, lp.Label)
			}
		})
	}
}
