package main

import (
	"fmt"
	"os"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/machine"
)

// checkReadable finds the kernel or the initrd that a confined VMM, which is another
// user, could not read. A disk image it gets as a descriptor.
func checkReadable(settings config.Hypervisor, findings []machine.Finding) []machine.Finding {
	if !settings.Confine || settings.ConfineUsers == "" {
		return findings
	}
	for i := range findings {
		f := &findings[i]
		if f.Status != machine.StatusOK || f.Value == "" || f.Value != settings.Kernel && f.Value != settings.Initrd {
			continue
		}
		if info, err := os.Stat(f.Value); err == nil && info.Mode()&0o004 == 0 {
			f.Status, f.Detail = machine.StatusMissing, "the confined VMM, which is a user of "+settings.ConfineUsers+", cannot read it"
			f.NextStep = fmt.Sprintf("chmod o+r %q", f.Value)
		}
	}
	return findings
}
