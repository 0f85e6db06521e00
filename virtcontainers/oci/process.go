package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
)

// transformProcess owns what a process has for Windows. The labels of security
// modules reach the guest as they are: its agent knows whether its kernel has policies
// that know them.
func transformProcess(t *translation) error {
	if process := t.spec().Process; process != nil {
		dropForWindows(process, t.drop)
	}
	return nil
}

func dropForWindows(p *specs.Process, drop func(field string, value any)) {
	if p.CommandLine != "" {
		drop("process.commandLine", p.CommandLine)
		p.CommandLine = ""
	}
	if p.User.Username != "" {
		drop("process.user.username", p.User.Username)
		p.User.Username = ""
	}
}

// TransformProcess translates a validated process that is added to a running
// container. The original stays as it is. rlimits and dropped are as in
// GuestOptions and GuestSpec.
func TransformProcess(process *specs.Process, rlimits []specs.POSIXRlimit) (guest *specs.Process, dropped []string, err error) {
	guest, err = deepCopy(process)
	if err != nil {
		return nil, nil, err
	}
	t := &translation{guest: &GuestSpec{}}
	dropForWindows(guest, t.drop)
	inheritRlimits(guest, rlimits)
	return guest, t.guest.Dropped, nil
}
