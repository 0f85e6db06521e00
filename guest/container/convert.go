package container

import (
	"fmt"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
)

// dropBindData takes from bind mounts the options that a bind cannot have.
// libcontainer has told them from those that it knows: what is left over is for
// a file system that is being made, and none is. Older runtimes passed it on to
// the kernel, which ignores it, so that callers got used to giving it; podman
// passes on its own words, such as nocopy.
func (r *Runtime) dropBindData(id string, config *configs.Config) {
	for _, m := range config.Mounts {
		if m.IsBind() && m.Data != "" {
			r.log.Debug("options of a bind mount have no effect", "container", id, "destination", m.Destination, "options", m.Data)
			m.Data = ""
		}
	}
}

// newProcess converts a process of the specification.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	if err := checkProcess(p); err != nil {
		return nil, err
	}
	noNewPrivileges := p.NoNewPrivileges
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: int(p.User.UID), GID: int(p.User.GID),
		NoNewPrivileges: &noNewPrivileges,
		Scheduler:       p.Scheduler, IOPriority: p.IOPriority,
		AppArmorProfile: p.ApparmorProfile, Label: p.SelinuxLabel,
	}
	for _, gid := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(gid))
	}
	if size := p.ConsoleSize; size != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(size.Width), uint16(size.Height)
	}
	if caps := p.Capabilities; caps != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: caps.Bounding, Effective: caps.Effective, Inheritable: caps.Inheritable,
			Permitted: caps.Permitted, Ambient: caps.Ambient,
		}
	}
	var err error
	if lp.Rlimits, err = newRlimits(p.Rlimits); err != nil {
		return nil, err
	}
	lp.LogLevel = helperLevel(lp.Rlimits)
	if lp.CPUAffinity, err = configs.ConvertCPUAffinity(p.ExecCPUAffinity); err != nil {
		return nil, fmt.Errorf("%w: process.execCPUAffinity: %w", ErrInvalid, err)
	}
	return lp, nil
}

func newRlimits(limits []specs.POSIXRlimit) ([]configs.Rlimit, error) {
	types := protocol.Rlimits()
	var converted []configs.Rlimit
	for _, limit := range limits {
		kind, ok := types[limit.Type]
		if !ok {
			return nil, fmt.Errorf("%w: process.rlimits: unknown type %q", ErrInvalid, limit.Type)
		}
		converted = append(converted, configs.Rlimit{Type: kind, Hard: limit.Hard, Soft: limit.Soft})
	}
	return converted, nil
}
