package machine

import (
	"context"
	"fmt"
	"strings"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/virtcontainers/config"
)

// jail says how those of the machine's processes are confined that need no
// privilege; nil: they are not.
func (m *Machine) jail(spec Spec) *jail.Options {
	options := m.daemonJail(spec.Config)
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
	if options != nil && len(options.Without) > 0 {
		spec.Log.Warn("parts of the confinement are left out, as configured", "confine_without", options.Without)
	}
	return options
}

// daemonJail says how the file server is confined; nil: it is not.
func (m *Machine) daemonJail(settings *config.Config) *jail.Options {
	if !settings.Hypervisor.Confine {
		return nil
	}
	return &jail.Options{
		Dir: jail.DefaultDir, LogCalls: settings.LogCalls(), Without: settings.Hypervisor.ConfineWithout, Step: m.program,
	}
}

// passtJail says how passt is confined, for which it takes a user; nil: it is not.
func (m *Machine) passtJail(settings *config.Config) (*jail.Options, error) {
	options := m.daemonJail(settings)
	if options == nil {
		return nil, nil //nolint:nilnil // see above
	}
	var err error
	if m.passtUser, err = claimUser(settings.Hypervisor); err != nil {
		return nil, fmt.Errorf("confine passt: %w", err)
	}
	if m.passtUser != nil {
		options.User = m.passtUser.ID
	}
	return options, nil
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
	accelerator, err := selectAccelerator(ctx, settings)
	if err != nil {
		f.Status, f.Detail, f.NextStep = StatusWarning, "no accelerator to try it with", "see above"
		return f
	}
	user, err := claimUser(settings)
	defer user.Release()
	options := jail.Options{Dir: jail.DefaultDir, Without: settings.ConfineWithout}
	if user != nil {
		options.User = user.ID
	}
	if err == nil {
		err = qemu.TryJail(ctx, path, accelerator.Name, options)
	}
	if err != nil {
		f.Status, f.Detail = StatusMissing, err.Error()
		f.NextStep = "permit what the message names, or leave that part out: confine_without, confine_users or confine in [hypervisor]"
		return f
	}
	f.Value = "root without capabilities"
	if user != nil {
		f.Value = "a user of " + settings.ConfineUsers
	}
	if len(settings.ConfineWithout) > 0 {
		f.Status, f.Detail = StatusWarning, "without "+strings.Join(settings.ConfineWithout, ", ")
		f.NextStep = "remove confine_without in [hypervisor], where this host permits the parts"
	}
	return checkUsers(f, settings)
}

// checkUsers finds users of the range that are somebody else's too.
func checkUsers(f Finding, settings config.Hypervisor) Finding {
	first, last, err := settings.UserRange()
	if err != nil || first == 0 {
		return f
	}
	others, err := jail.Conflicts("/etc", jail.Range{First: first, Last: last})
	switch {
	case err != nil:
		f.Status, f.Detail, f.NextStep = StatusWarning, err.Error(), ""
	case len(others) > 0:
		if f.Status = StatusWarning; f.Detail != "" {
			f.Detail += "; "
		}
		f.Detail += "others have users of confine_users: " + strings.Join(others, ", ")
		f.NextStep = "set confine_users in [hypervisor] to a range of ids that nobody else has"
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
	if err := jail.Restrict(settings.ConfineWithout); err != nil {
		return fmt.Errorf("restrict the supervisor (confine = false goes without): %w", err)
	}
	return nil
}
