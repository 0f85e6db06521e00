package container

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
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
//     container is in it. A path names the pod's own namespace: for pid one that
//     is made when first needed, for ipc, uts and cgroup the guest's.
//   - Sysctls of those namespaces are the pod's, and set by the agent.
//   - Hooks but startContainer, which runs in the container, were the host's.
//   - Security labels: the guest's kernel has no policies for them.
//   - cpusets that name processors or nodes of the host.
func (r *Runtime) guestSpec(id string, spec *specs.Spec) error {
	linux := spec.Linux
	linux.CgroupsPath = filepath.Join(cgroupParent, id)
	linux.MountLabel, linux.IntelRdt, linux.NetDevices = "", nil, nil
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
	if err := r.guestNamespaces(linux); err != nil {
		return err
	}
	if !hasNamespace(linux, specs.UTSNamespace) {
		spec.Hostname, spec.Domainname = "", ""
	}
	if err := sharedSysctls(linux); err != nil {
		return err
	}
	if hasNamespace(linux, specs.UserNamespace) {
		spec.Mounts = bindSysfs(spec.Mounts)
	}
	fitCpuset(r.log, linux.Resources, onlineCPUs())
	return nil
}

// guestProcess drops the labels of security modules from a process.
func guestProcess(p *specs.Process) {
	p.ApparmorProfile, p.SelinuxLabel = "", ""
}

func hasNamespace(linux *specs.Linux, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
}

func (r *Runtime) guestNamespaces(linux *specs.Linux) error {
	namespaces := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, ns := range linux.Namespaces {
		switch {
		case ns.Type == specs.NetworkNamespace, ns.Type == specs.MountNamespace:
			continue
		case ns.Path == "":
		case ns.Type == specs.PIDNamespace:
			path, err := r.sharedPIDNamespace()
			if err != nil {
				return err
			}
			ns.Path = path
		case ns.Type == specs.IPCNamespace, ns.Type == specs.UTSNamespace, ns.Type == specs.CgroupNamespace:
			continue
		default:
			return fmt.Errorf("%w: linux.namespaces: joining an existing %s namespace is not possible in a guest", ErrInvalid, ns.Type)
		}
		namespaces = append(namespaces, ns)
	}
	linux.Namespaces = namespaces
	return nil
}

// sharedPIDNamespace returns the path of the PID namespace that the pod's
// containers share, and makes it when it does not exist.
func (r *Runtime) sharedPIDNamespace() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holder == nil {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return "", fmt.Errorf("make shared pid namespace: %w", err)
		}
		defer null.Close()
		holder, err := os.StartProcess("/proc/self/exe", []string{"kata-agent", holdArgument}, &os.ProcAttr{
			Dir: "/", Files: []*os.File{null, null, os.Stderr}, Env: []string{"GOMAXPROCS=1"},
			Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Setsid: true},
		})
		if err != nil {
			return "", fmt.Errorf("make shared pid namespace: %w", err)
		}
		r.holder = holder
	}
	return fmt.Sprintf("/proc/%d/ns/pid", r.holder.Pid), nil
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

// sharedSysctls sets the kernel parameters of namespaces that the container
// shares with the pod, and takes them out of the specification: the container
// may set only those of its own.
func sharedSysctls(linux *specs.Linux) error {
	for key, value := range linux.Sysctl {
		name := strings.ReplaceAll(key, "/", ".")
		shared := strings.HasPrefix(name, "net.")
		if !hasNamespace(linux, specs.IPCNamespace) {
			shared = shared || isIPCSysctl(name)
		}
		if !shared {
			continue
		}
		path := filepath.Join("/proc/sys", sysctlPath(key))
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("linux.sysctl %q: %w", key, err)
		}
		delete(linux.Sysctl, key)
	}
	return nil
}

// sysctlPath converts a name to a path below /proc/sys, as sysctl(8) does: the
// first separator decides whether dots or slashes separate.
func sysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '/' {
		return key
	}
	return strings.Map(func(c rune) rune {
		switch c {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return c
	}, key)
}

func isIPCSysctl(name string) bool {
	return strings.HasPrefix(name, "fs.mqueue.") || strings.HasPrefix(name, "kernel.msg") ||
		strings.HasPrefix(name, "kernel.shm") || name == "kernel.sem"
}
