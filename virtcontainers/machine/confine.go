package machine

import (
	"context"
	"fmt"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/virtcontainers/config"
)

// confine says how the VMM is confined, for which it takes a user; nil: it is not.
func (m *Machine) confine(spec Spec) (*jail.Options, error) {
	if !spec.Config.Hypervisor.Confine {
		return nil, nil //nolint:nilnil // see above
	}
	if m.daemon == nil {
		spec.Log.Warn("the VMM has the host's root privileges, because it serves files by 9p itself", "advice", "install virtiofsd")
		return nil, nil //nolint:nilnil // see above
	}
	var err error
	if m.user, err = claimUser(spec.Config.Hypervisor); err != nil {
		return nil, fmt.Errorf("confine the VMM: %w", err)
	}
	options := &jail.Options{Dir: jail.DefaultDir, LogCalls: spec.Config.LogCalls()}
	if m.user != nil {
		options.User = m.user.ID
	}
	return options, nil
}

// daemonJail says how virtiofsd is confined; nil: it is not.
func daemonJail(settings *config.Config) *jail.Options {
	if !settings.Hypervisor.Confine {
		return nil
	}
	return &jail.Options{Dir: jail.DefaultDir, LogCalls: settings.LogCalls()}
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
