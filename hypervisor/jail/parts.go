package jail

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Parts of a jail that a host may forbid, and that a Spec can leave out.
const (
	PartRoot        = "root"
	PartSystemCalls = "system_calls"
	PartKeyring     = "keyring"
)

// namespacePart is a namespace of a jail: the part's name, the flag of clone(2), and
// the sysctl below user. that says how many there may be.
type namespacePart struct {
	name, sysctl string
	flag         uintptr
}

func namespaceParts() []namespacePart {
	return []namespacePart{
		{"cgroup", "max_cgroup_namespaces", unix.CLONE_NEWCGROUP},
		{"ipc", "max_ipc_namespaces", unix.CLONE_NEWIPC},
		{"net", "max_net_namespaces", unix.CLONE_NEWNET},
		{"pid", "max_pid_namespaces", unix.CLONE_NEWPID},
		{PartRoot, "max_mnt_namespaces", unix.CLONE_NEWNS},
		{"uts", "max_uts_namespaces", unix.CLONE_NEWUTS},
	}
}

// Parts lists all parts that can be left out.
func Parts() []string {
	parts := []string{PartSystemCalls, PartKeyring}
	for _, p := range namespaceParts() {
		parts = append(parts, p.name)
	}
	slices.Sort(parts)
	return parts
}

// leaveOut takes the parts of Without from the rest of a Spec.
func (s *Spec) leaveOut() {
	for _, p := range namespaceParts() {
		if slices.Contains(s.Without, p.name) {
			s.Namespaces &^= p.flag
		}
	}
	if slices.Contains(s.Without, PartRoot) {
		s.Root = nil
	}
	if slices.Contains(s.Without, PartSystemCalls) {
		s.SystemCalls = nil
	}
}

// advice is what an error about a part says that can be done.
func advice(part string) string {
	return fmt.Sprintf("without it: confine_without = [%q] in [hypervisor]", part)
}

// ErrForbidden says that this host lets a process have no namespace of a kind.
var ErrForbidden = errors.New("this host forbids a part of the confinement")

// Explain says why a process could not be started in namespaces of its own, where it is
// for them: which one this host does not permit. Other errors stay as they are.
func Explain(namespaces uintptr, err error) error {
	if namespaces == 0 || err == nil {
		return err
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS): // a limit
		for _, p := range namespaceParts() {
			if namespaces&p.flag == 0 {
				continue
			}
			if most, ok := sysctl(p.sysctl); ok && most == 0 {
				return fmt.Errorf("%w: user.%s is 0: set it higher (sysctl -w user.%s=65536), or %s: %w",
					ErrForbidden, p.sysctl, p.sysctl, advice(p.name), err)
			}
		}
		return fmt.Errorf("%w: one of the sysctls user.max_*_namespaces is reached: set it higher: %w", ErrForbidden, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel lacks one of CONFIG_{NET,PID,IPC,UTS}_NS, CONFIG_CGROUPS: name the part in confine_without in [hypervisor] (%s): %w",
			ErrForbidden, strings.Join(Parts(), ", "), err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: making namespaces takes CAP_SYS_ADMIN, which this process does not have, or which a security module denies it: %w",
			ErrForbidden, err)
	}
	return err
}

func sysctl(name string) (int, bool) {
	data, err := os.ReadFile("/proc/sys/user/" + name)
	if err != nil {
		return 0, false
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return value, err == nil
}
