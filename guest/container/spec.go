package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/modules"
	"kata-runtime/guest/protocol"
)

func parseSpec(data []byte) (*specs.Spec, error) {
	spec := &specs.Spec{}
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("%w: specification: %w", ErrInvalid, err)
	}
	switch {
	case spec.Root == nil || !filepath.IsAbs(spec.Root.Path):
		return nil, fmt.Errorf("%w: root.path must be an absolute path in the guest", ErrInvalid)
	case spec.Process == nil:
		return nil, fmt.Errorf("%w: process must not be empty", ErrInvalid)
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	return spec, checkProcess(spec.Process)
}

func checkProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0:
		return fmt.Errorf("%w: process.args must not be empty", ErrInvalid)
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("%w: process.cwd %q must be an absolute path", ErrInvalid, p.Cwd)
	}
	return nil
}

// guestSpec changes what only the guest can decide:
//   - Namespaces. The guest's network namespace is the pod's, and every
//     container is in it. A path names a namespace of the pod's or of another
//     container's, see protocol.SandboxNamespace and ContainerNamespace.
//   - Sysctls of the network are the pod's, and set by the agent.
//   - Hooks but startContainer, which runs in the container, were the host's.
//   - A seccomp filter for another architecture.
//   - cpusets that name processors or nodes of the host.
//
// release is to be called once the container's first process is there.
func (r *Runtime) guestSpec(ctx context.Context, id string, spec *specs.Spec) (release func(), err error) {
	linux := spec.Linux
	translateFilter(linux.Seccomp)
	linux.CgroupsPath = filepath.Join(cgroupParent, id)
	linux.IntelRdt, linux.NetDevices = nil, nil
	if !hasNamespace(linux, specs.CgroupNamespace) {
		// There is no host's in a guest. With its own the container finds its
		// limits in /sys/fs/cgroup, as on a host with cgroups of version 1,
		// where callers ask for none.
		linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if spec.Hooks != nil {
		spec.Hooks = &specs.Hooks{StartContainer: spec.Hooks.StartContainer}
	}
	guestProcess(spec.Process)
	if spec.Process.OOMScoreAdj == nil {
		// Otherwise it would inherit the agent's protection.
		spec.Process.OOMScoreAdj = new(int)
	}
	if err := openNetwork("/proc/sys", linux); err != nil {
		return nil, err
	}
	if err := networkSysctls(linux); err != nil {
		return nil, err
	}
	if hasNamespace(linux, specs.UserNamespace) {
		spec.Mounts = bindSysfs(spec.Mounts)
	}
	fitCpuset(r.log, linux.Resources, onlineCPUs())
	return r.guestNamespaces(ctx, linux)
}

// guestProcess drops the capability to load modules of its own from a process, where
// the guest's kernel has any.
func guestProcess(p *specs.Process) {
	if modules.Supported() {
		dropCapability(p.Capabilities, "CAP_SYS_MODULE")
	}
}

func dropCapability(sets *specs.LinuxCapabilities, name string) {
	if sets == nil {
		return
	}
	for _, set := range []*[]string{&sets.Bounding, &sets.Effective, &sets.Permitted, &sets.Inheritable, &sets.Ambient} {
		*set = slices.DeleteFunc(*set, func(capability string) bool { return capability == name })
	}
}

func hasNamespace(linux *specs.Linux, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
}

// bindSysfs replaces sysfs mounts by binds of the guest's: a user namespace
// that does not own the network namespace may not mount sysfs.
func bindSysfs(mounts []specs.Mount) []specs.Mount {
	mounts = slices.Clone(mounts)
	for i, m := range mounts {
		if m.Type == "sysfs" {
			mounts[i].Type, mounts[i].Source = "bind", "/sys"
			mounts[i].Options = append(slices.Clone(m.Options), "rbind")
		}
	}
	return mounts
}

// openNetwork lets a container whose user namespace is new serve ports below
// 1024 and send echo requests. On a host its user namespace would own the
// network namespace, and so its root would have the capabilities for both; the
// guest's network is owned by the guest itself. What somebody has set already,
// and what the container's own sysctls will set, stays.
func openNetwork(sysctls string, linux *specs.Linux) error {
	if !slices.ContainsFunc(linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace && ns.Path == "" }) {
		return nil
	}
	for _, parameter := range []struct{ path, initial, open string }{
		{"net/ipv4/ip_unprivileged_port_start", "1024", "0"},
		{"net/ipv4/ping_group_range", "1\t0", "0\t2147483647"},
	} {
		path := filepath.Join(sysctls, parameter.path)
		value, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(value)) == parameter.initial {
			err = os.WriteFile(path, []byte(parameter.open), 0)
		}
		if err != nil {
			return fmt.Errorf("let a user namespace use the network: %w", err)
		}
	}
	return nil
}

// networkSysctls sets the kernel parameters of the network namespace, which is
// the pod's, and takes them out of the specification: the container may set
// only those of namespaces that it names. Those of a pod's IPC and UTS
// namespace it does set, from inside.
func networkSysctls(linux *specs.Linux) error {
	for key, value := range linux.Sysctl {
		path, ok := protocol.SysctlPath(key)
		if !ok {
			return fmt.Errorf("%w: linux.sysctl %q: not the name of a kernel parameter", ErrInvalid, key)
		}
		if !strings.HasPrefix(path, "net/") {
			continue
		}
		if err := writeSysctl(path, value); err != nil {
			return fmt.Errorf("linux.sysctl %q: %w", key, err)
		}
		delete(linux.Sysctl, key)
	}
	return nil
}

// writeSysctl sets a parameter below /proc/sys: no name leads out of there.
func writeSysctl(path, value string) error {
	root, err := os.OpenRoot("/proc/sys")
	if err != nil {
		return err
	}
	defer root.Close()
	file, err := root.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}
