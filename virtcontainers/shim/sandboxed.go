package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/shim/podconfig"
	"kata-runtime/virtcontainers/sizing"
)

// sandboxed is what a pod has that CreateSandbox has made, without a first
// container.
type sandboxed struct {
	createdAt time.Time
	plan      plan
	// needsPause: the containers join the namespaces of a pause process, which
	// StartSandbox starts. paused: it has, guarded by the service's booting.
	needsPause, paused bool
	// mounts and sysctls are what the pod has for all of its containers.
	mounts  []specs.Mount
	sysctls map[string]string
	// own are paths on which this process has mounted something, in its own mount
	// namespace.
	own []string

	stopped atomic.Bool // containerd has asked for its end
	ended   chan struct{}
	endedAt time.Time // written before ended is closed
}

// planSandbox plans the pod of a sandbox, as containerd describes a sandbox
// container where it makes one. joined is the pod's network namespace, open as
// long as the plan is used; nil: it has the host's.
func planSandbox(request *sandboxapi.CreateSandboxRequest, config *podconfig.PodSandboxConfig, settings *config.Config, systemd bool) (_ plan, joined *network.Namespace, err error) {
	p := plan{dir: request.GetBundlePath(), settings: settings, systemd: systemd, hostname: config.GetHostname()}
	if p.hostname == "" {
		if p.hostname, err = os.Hostname(); err != nil {
			return plan{}, nil, fmt.Errorf("find the caller's host name: %w", err)
		}
	}
	if p.spec, err = sandboxSpec(request, config); err != nil {
		return plan{}, nil, err
	}
	defer func() {
		if err != nil && joined != nil {
			err = errors.Join(err, joined.Close())
		}
	}()
	if joined, err = openOwnNetwork(oci.NetworkPath(p.spec)); err != nil {
		return plan{}, nil, err
	}
	if joined == nil {
		p.spec.Linux.Namespaces = slices.DeleteFunc(p.spec.Linux.Namespaces, isNetwork)
	} else if p.interfaces, err = joined.CountInterfaces(); err != nil {
		return plan{}, joined, err
	}
	_, err = oci.CheckNetwork(p.spec)
	if p.hostNetwork = errors.Is(err, oci.ErrHostNetwork) && hostNetwork(settings); err != nil && !p.hostNetwork {
		return plan{}, joined, err
	}
	if p.config, err = json.Marshal(p.spec); err != nil {
		return plan{}, joined, fmt.Errorf("encode the sandbox's spec: %w", err)
	}
	p.namespaces = slices.Clone(p.spec.Linux.Namespaces)
	if i := slices.IndexFunc(p.namespaces, isNetwork); i >= 0 {
		// The path may mean another one by now.
		p.namespaces[i].Path = fmt.Sprintf("/proc/self/fd/%d", joined.File().Fd())
	}
	return p, joined, nil
}

func isNetwork(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace }

// openOwnNetwork opens a network namespace; nil for none, and for the host's.
func openOwnNetwork(path string) (*network.Namespace, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // the host's
	}
	joined, err := network.OpenNamespace(path)
	if err != nil {
		return nil, err
	}
	hosts, err := namespace.IsHost(specs.NetworkNamespace, joined.File())
	if err != nil || hosts {
		return nil, errors.Join(err, joined.Close())
	}
	return joined, nil
}

// sandboxSpec is the specification that containerd would write for the pod's
// sandbox container, as far as it is about the pod.
func sandboxSpec(request *sandboxapi.CreateSandboxRequest, config *podconfig.PodSandboxConfig) (*specs.Spec, error) {
	linux := config.GetLinux()
	options := linux.GetSecurityContext().GetNamespaceOptions()
	if options.GetPid() == podconfig.NamespaceMode_NODE {
		return nil, fmt.Errorf("the host's processes (hostPID) are %w", oci.ErrUnsupported)
	}
	namespaces := []specs.LinuxNamespace{{Type: specs.PIDNamespace}}
	if options.GetIpc() != podconfig.NamespaceMode_NODE {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	spec := &specs.Spec{Version: specs.Version, Linux: &specs.Linux{}}
	if path := request.GetNetnsPath(); path != "" && options.GetNetwork() != podconfig.NamespaceMode_NODE {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path}, specs.LinuxNamespace{Type: specs.UTSNamespace})
		spec.Hostname = config.GetHostname()
	}
	if hasUsers(options) {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		spec.Linux.UIDMappings = mappings(options.GetUsernsOptions().GetUids())
		spec.Linux.GIDMappings = mappings(options.GetUsernsOptions().GetGids())
	}
	spec.Linux.Namespaces = namespaces
	spec.Linux.CgroupsPath = cgroupsPath(linux.GetCgroupParent(), request.GetSandboxID())
	spec.Annotations = podAnnotations(request, config)
	if metadata := config.GetMetadata(); metadata.GetName() != "" {
		oci.NamePod(spec.Annotations, metadata.GetNamespace(), metadata.GetName())
	}
	if r := linux.GetResources(); r != nil {
		maps.Copy(spec.Annotations, sizing.Annotations(r.GetCpuPeriod(), r.GetCpuQuota(), r.GetCpuShares(), r.GetMemoryLimitInBytes()))
	}
	return spec, nil
}

// podAnnotations are all of the pod's: what of them counts is the configuration's
// to say.
func podAnnotations(request *sandboxapi.CreateSandboxRequest, config *podconfig.PodSandboxConfig) map[string]string {
	annotations := make(map[string]string)
	maps.Copy(annotations, config.GetAnnotations())
	maps.Copy(annotations, request.GetAnnotations())
	return annotations
}

func mappings(ids []*podconfig.IDMapping) []specs.LinuxIDMapping {
	var list []specs.LinuxIDMapping
	for _, m := range ids {
		list = append(list, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return list
}

// cgroupsPath is the control group of a sandbox below that of its pod, as
// containerd calls it.
func cgroupsPath(parent, id string) string {
	switch base := filepath.Base(parent); {
	case parent == "":
		return ""
	case strings.HasSuffix(base, ".slice"):
		return base + ":cri-containerd:" + id
	default:
		return filepath.Join(parent, id)
	}
}

// shmSize is that of a pod's /dev/shm, containerd's.
const shmSize = 64 << 20

// furnish makes what containerd leaves to the shim for a pod without a sandbox
// container: the names in /etc, and the memory that the containers share. The
// files lie in the bundle, which containerd removes.
func (h *home) furnish(dns *podconfig.DNSConfig) error {
	p := &h.sandboxed.plan
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make the pod's /etc/hosts: %w", err)
	}
	resolver := []byte(dns.ResolvConf())
	if dns == nil {
		if resolver, err = os.ReadFile("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("make the pod's /etc/resolv.conf: %w", err)
		}
	}
	for name, content := range map[string][]byte{"hostname": []byte(p.hostname + "\n"), "hosts": hosts, "resolv.conf": resolver} {
		path := filepath.Join(p.dir, name)
		err := os.WriteFile(path, content, 0o644)
		if err == nil {
			err = os.Chown(path, rootID(p.spec.Linux.UIDMappings), rootID(p.spec.Linux.GIDMappings))
		}
		if err != nil {
			return fmt.Errorf("make the pod's /etc/%s: %w", name, err)
		}
		h.sandboxed.mounts = append(h.sandboxed.mounts, specs.Mount{
			Destination: "/etc/" + name, Type: "bind", Source: path, Options: []string{"rbind", "rprivate"},
		})
	}
	shm := filepath.Join(p.dir, "shm")
	if err := h.mountOwn(shm, fmt.Sprintf("mode=1777,size=%d", shmSize)); err != nil {
		return fmt.Errorf("make the pod's /dev/shm: %w", err)
	}
	h.sandboxed.mounts = append(h.sandboxed.mounts, specs.Mount{
		Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "nosuid", "nodev", "noexec"},
	})
	if h.sandboxed.needsPause {
		if err := h.mountOwn(p.pauseRoot(), "mode=755,size=64k"); err != nil {
			return fmt.Errorf("make the root file system of the pod's pause process: %w", err)
		}
	}
	return nil
}

// mountOwn mounts an empty file system in this process's own mount namespace.
func (h *home) mountOwn(path, options string) error {
	if err := os.Mkdir(path, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := unix.Mount("kata", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return &os.PathError{Op: "mount a tmpfs on", Path: path, Err: err}
	}
	h.sandboxed.own = append(h.sandboxed.own, path)
	h.deferred(func(context.Context) error {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
		return nil
	})
	return nil
}

// rootID is what the containers' root is on the host.
func rootID(mappings []specs.LinuxIDMapping) int {
	for _, m := range mappings {
		if m.ContainerID == 0 {
			return int(m.HostID)
		}
	}
	return 0
}

// complete gives a container what the pod has for all of its containers, where
// the container has nothing of its own.
func (p *sandboxed) complete(spec *specs.Spec) {
	if p == nil {
		return
	}
	for _, mount := range p.mounts {
		if spec.Root.Readonly && strings.HasPrefix(mount.Destination, "/etc/") {
			mount.Options = append(slices.Clone(mount.Options), "ro")
		}
		i := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return filepath.Clean(m.Destination) == mount.Destination })
		switch {
		case i < 0:
			spec.Mounts = append(spec.Mounts, mount)
		case spec.Mounts[i].Type == "tmpfs" && spec.Mounts[i].Source == "shm": // what containerd gives to all
			spec.Mounts[i] = mount
		}
	}
	for name, value := range p.sysctls {
		if spec.Linux.Sysctl == nil {
			spec.Linux.Sysctl = make(map[string]string)
		}
		if _, own := spec.Linux.Sysctl[name]; !own {
			spec.Linux.Sysctl[name] = value
		}
	}
}
