package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
)

// transformLabels owns what belongs to security modules of the host's kernel:
// the guest's kernel has no policy that would know a profile or a label.
func transformLabels(t *translation) error {
	spec := t.spec()
	if spec.Process != nil {
		dropProcessLabels(spec.Process, t.drop)
	}
	if label := spec.Linux.MountLabel; label != "" {
		t.drop("linux.mountLabel", label)
		spec.Linux.MountLabel = ""
	}
	return nil
}

func dropProcessLabels(p *specs.Process, drop func(field string, value any)) {
	if p.ApparmorProfile != "" {
		drop("process.apparmorProfile", p.ApparmorProfile)
		p.ApparmorProfile = ""
	}
	if p.SelinuxLabel != "" {
		drop("process.selinuxLabel", p.SelinuxLabel)
		p.SelinuxLabel = ""
	}
	// For Windows.
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
	dropProcessLabels(guest, t.drop)
	inheritRlimits(guest, rlimits)
	return guest, t.guest.Dropped, nil
}
