package oci

import "fmt"

// transformHostOnly owns the fields that the guest gets nothing of: sections of
// other platforms, hardware of the host, and what needs a channel that does not
// exist.
func transformHostOnly(t *translation) error {
	spec := t.spec()
	sections := []struct {
		name    string
		present bool
	}{
		{"freebsd", spec.FreeBSD != nil},
		{"solaris", spec.Solaris != nil},
		{"vm", spec.VM != nil},
		{"windows", spec.Windows != nil},
		{"zos", spec.ZOS != nil},
	}
	for _, section := range sections {
		if section.present {
			t.drop(section.name, "(section)")
		}
	}
	spec.Solaris, spec.Windows, spec.VM, spec.ZOS, spec.FreeBSD = nil, nil, nil, nil, nil
	if spec.Linux.IntelRdt != nil {
		t.drop("linux.intelRdt", *spec.Linux.IntelRdt)
		spec.Linux.IntelRdt = nil
	}
	if personality := spec.Linux.Personality; personality != nil && len(personality.Flags) > 0 {
		t.drop("linux.personality.flags", personality.Flags)
		personality.Flags = nil
	}
	if len(spec.Linux.NetDevices) > 0 {
		return fmt.Errorf("linux.netDevices: moving network devices of the host is %w", ErrUnsupported)
	}
	if seccomp := spec.Linux.Seccomp; seccomp != nil && (seccomp.ListenerPath != "" || seccomp.ListenerMetadata != "") {
		return fmt.Errorf("linux.seccomp.listenerPath, linux.seccomp.listenerMetadata: a seccomp listener on the host is %w", ErrUnsupported)
	}
	return nil
}
