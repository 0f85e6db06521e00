package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers/bundle"
	"kata-runtime/virtcontainers/shim/pause"
	"kata-runtime/virtcontainers/shim/podconfig"
)

// needsPause tells whether the pod's containers share what a process has to live
// in.
func needsPause(config *podconfig.PodSandboxConfig) bool {
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	return options.GetPid() == podconfig.NamespaceMode_POD || hasUsers(options)
}

func hasUsers(options *podconfig.NamespaceOption) bool {
	users := options.GetUsernsOptions()
	return users != nil && users.GetMode() == podconfig.NamespaceMode_POD
}

// startPause runs the pod's pause process, a container that containerd does not
// know. With its end the pod ends, as with that of a sandbox container.
func (s *service) startPause(ctx context.Context, h *home) error {
	b, err := h.pauseBundle()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer b.Close()
	t := s.newTask(&taskapi.CreateTaskRequest{ID: h.id, Bundle: b.Dir}, cancel)
	t.home = h
	err = t.seeing(func() error {
		return b.Prepare(bundle.Options{ID: h.id, Sandbox: true, HostNetwork: hostNetwork(h.config), Rlimits: s.options.Rlimits})
	})
	if err != nil {
		return fmt.Errorf("prepare the pod's pause process: %w", err)
	}
	if err := t.make(ctx, b, false); err != nil {
		return fmt.Errorf("create the pod's pause process: %w", err)
	}
	if err := t.container.Start(ctx); err != nil {
		return fmt.Errorf("start the pod's pause process: %w", err)
	}
	later := context.WithoutCancel(ctx)
	s.background.Go(func() {
		<-t.container.Finished()
		if err := h.pod.Stop(later); err != nil {
			h.log.Error("stop the pod, whose pause process has ended", "error", err)
		}
	})
	return nil
}

// pauseRoot is where the pause process's root file system is mounted.
func (p *plan) pauseRoot() string { return filepath.Join(p.dir, "rootfs") }

// pauseBundle describes the pause process: this program, in a file system of its
// own.
func (h *home) pauseBundle() (*bundle.Bundle, error) {
	p := &h.sandboxed.plan
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's own path: %w", err)
	}
	spec, linux := *p.spec, *p.spec.Linux
	linux.Namespaces = append(slices.Clone(linux.Namespaces), specs.LinuxNamespace{Type: specs.MountNamespace})
	spec.Linux = &linux
	spec.Root = &specs.Root{Path: p.pauseRoot(), Readonly: true}
	spec.Process = &specs.Process{
		Args: []string{pause.Path, pause.Command}, Cwd: "/", NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
		// It is as small as a Go program can be.
		Env: []string{"GOMAXPROCS=1", "GOGC=off"},
	}
	spec.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
		{Destination: pause.Path, Type: "bind", Source: program, Options: []string{"bind", "ro", "nosuid", "nodev"}},
	}
	return &bundle.Bundle{Dir: p.dir, Rootfs: spec.Root.Path, Spec: &spec}, nil
}
