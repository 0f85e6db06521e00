package machine

import (
	"context"
	"fmt"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/virtcontainers/config"
)

// jail says how those of the machine's processes are confined that need no
// privilege; nil: they are not.
func (m *Machine) jail(spec Spec) *jail.Options {
	options := daemonJail(spec.Config)
	if options != nil && m.user != nil {
		options.User = m.user.ID
	}
	return options
}

// confine says how the VMM is confined; nil: it is not.
func (m *Machine) confine(spec Spec) *jail.Options {
	options := m.jail(spec)
	if options != nil && m.daemon == nil {
		spec.Log.Warn("the VMM has the host's root privileges, because it serves files by 9p itself", "advice", "install virtiofsd")
		return nil
	}
	return options
}

// daemonJail says how the file server is confined; nil: it is not.
func daemonJail(settings *config.Config) *jail.Options {
	if !settings.Hypervisor.Confine {
		return nil
	}
	return &jail.Options{Dir: jail.DefaultDir, LogCalls: settings.Runtime.Debug}
}

// claimUser takes one of the configured users; nil where none are.
func claimUser(settings config.Hypervisor) (*jail.User, error) {
	first, last, err := settings.UserRange()
	if err != nil || first == 0 {
		return nil, err
	}
	return jail.Claim(jail.DefaultDir, jail.Range{First: first, Last: last})
}

// checkConfinement starts the VMM confined, for a moment.
func checkConfinement(ctx context.Context, settings config.Hypervisor) Finding {
	f := Finding{Name: "confinement", Status: StatusOK}
	path, err := qemu.Find(settings.QEMU.Path)
	switch {
	case !settings.Confine:
		f.Status, f.Value = StatusWarning, "none"
		f.Detail, f.NextStep = "confine is false: the VMM has the host's root privileges", "set confine = true in [hypervisor]"
		return f
	case settings.SharedFS == config.SharedFS9P:
		f.Status, f.Value = StatusWarning, "none"
		f.Detail, f.NextStep = "the VMM serves files by 9p itself, with the host's root privileges", `set shared_fs = "auto"`
		return f
	case err != nil:
		f.Status, f.Detail, f.NextStep = StatusWarning, "no VMM to try it with", "install QEMU"
		return f
	}
	user, err := claimUser(settings)
	defer user.Release()
	options := jail.Options{Dir: jail.DefaultDir}
	if user != nil {
		options.User = user.ID
	}
	if err == nil {
		err = qemu.TryJail(ctx, path, options)
	}
	if err != nil {
		f.Status, f.Detail = StatusMissing, err.Error()
		f.NextStep = "permit what the message names, or set confine = false in [hypervisor]"
		return f
	}
	f.Value = "root without capabilities"
	if user != nil {
		f.Value = "a user of " + settings.ConfineUsers
	}
	return f
}

// Restrict takes from the process that has a machine, for good, what nobody needs who
// looks after one, unless the configuration says that nothing is confined. It comes
// before the machine: its processes inherit it.
func Restrict(settings config.Hypervisor) error {
	if !settings.Confine {
		return nil
	}
	if err := jail.Restrict(); err != nil {
		return fmt.Errorf("restrict the supervisor (confine = false goes without): %w", err)
	}
	return nil
}
