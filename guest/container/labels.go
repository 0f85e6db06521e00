package container

import "github.com/opencontainers/runtime-spec/specs-go"

// Labels says of which security modules the guest's kernel has policies.
type Labels struct {
	AppArmor bool // process.apparmorProfile
	SELinux  bool // process.selinuxLabel, linux.mountLabel
}

// ApplyLabels has the containers that are made from now on, and the processes that are
// added, run with the labels of their specifications. What the kernel does not know is
// then an error. The others have no effect, as before it was called: callers give those
// of the host, whatever the guest's kernel is.
func (r *Runtime) ApplyLabels(labels Labels) { r.labels.Store(&labels) }

// chooseLabels drops those labels of a container that it is not to have.
func (r *Runtime) chooseLabels(id string, spec *specs.Spec) {
	r.chooseProcessLabels(id, spec.Process)
	if applied := r.labels.Load(); spec.Linux.MountLabel != "" && (applied == nil || !applied.SELinux) {
		r.dropLabel(id, "linux.mountLabel", &spec.Linux.MountLabel)
	}
}

// chooseProcessLabels does the same for a process.
func (r *Runtime) chooseProcessLabels(id string, p *specs.Process) {
	applied := r.labels.Load()
	if applied == nil {
		applied = &Labels{}
	}
	if p.ApparmorProfile != "" && !applied.AppArmor {
		r.dropLabel(id, "process.apparmorProfile", &p.ApparmorProfile)
	}
	if p.SelinuxLabel != "" && !applied.SELinux {
		r.dropLabel(id, "process.selinuxLabel", &p.SelinuxLabel)
	}
}

func (r *Runtime) dropLabel(id, field string, label *string) {
	r.log.Debug("a label has no effect: the guest's kernel has no policy for it", "container", id, "field", field, "value", *label)
	*label = ""
}
