package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// podNamespaces are the IPC and the UTS namespace that the pod's containers
// share. No process lives in them: open descriptors keep them, so that they
// need no container and no helper.
type podNamespaces struct {
	mu    sync.Mutex // guards files
	files map[specs.LinuxNamespaceType]*os.File
}

// namespaceFiles are the names of namespaces below /proc/PID/ns.
func namespaceFiles() map[specs.LinuxNamespaceType]string {
	return map[specs.LinuxNamespaceType]string{
		specs.PIDNamespace: "pid", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.CgroupNamespace: "cgroup",
		specs.UserNamespace: "user",
	}
}

// get returns the namespace of a kind, ipc or uts, and makes both when they do
// not exist yet.
func (p *podNamespaces) get(kind specs.LinuxNamespaceType) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.files == nil {
		if err := p.create(); err != nil {
			return nil, fmt.Errorf("make the pod's namespaces: %w", err)
		}
	}
	return p.files[kind], nil
}

func (p *podNamespaces) create() error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
			return err
		}
		ipc, err := os.Open("/proc/thread-self/ns/ipc")
		if err != nil {
			return err
		}
		uts, err := os.Open("/proc/thread-self/ns/uts")
		if err != nil {
			return errors.Join(err, ipc.Close())
		}
		p.files = map[specs.LinuxNamespaceType]*os.File{specs.IPCNamespace: ipc, specs.UTSNamespace: uts}
		return nil
	})
}

// close lets go of the namespaces.
func (p *podNamespaces) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, file := range p.files {
		file.Close()
	}
	p.files = nil
}

// SetHostname names the pod: the containers see it that share its UTS
// namespace.
func (r *Runtime) SetHostname(name string) error {
	uts, err := r.pod.get(specs.UTSNamespace)
	if err == nil {
		err = onThread(func() error {
			if err := unix.Setns(int(uts.Fd()), unix.CLONE_NEWUTS); err != nil {
				return err
			}
			return unix.Sethostname([]byte(name))
		})
	}
	if err != nil {
		return fmt.Errorf("set host name %q: %w", name, err)
	}
	return nil
}

// guestNamespaces replaces the namespaces by those that the container is to
// have. The paths are of open files: release closes them, once the container's
// first process is in its namespaces.
func (r *Runtime) guestNamespaces(ctx context.Context, linux *specs.Linux) (release func(), err error) {
	var held []*os.File
	release = func() {
		for _, file := range held {
			file.Close()
		}
	}
	namespaces := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, kind := range []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace} {
		if !hasNamespace(linux, kind) { // The host's is asked for, which is the pod's.
			linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: protocol.SandboxNamespace})
		}
	}
	for _, ns := range linux.Namespaces {
		if ns.Type == specs.NetworkNamespace || ns.Type == specs.MountNamespace {
			continue
		}
		if ns.Path != "" {
			file, own, err := r.openNamespace(ctx, ns)
			if err != nil {
				release()
				return nil, fmt.Errorf("linux.namespaces: %s namespace %q: %w", ns.Type, ns.Path, err)
			}
			if own {
				held = append(held, file)
			}
			// Without the dot libcontainer 1.5 takes the path of a user namespace
			// for that of this process's own: it looks no further than the pid.
			ns.Path = fmt.Sprintf("/proc/./%d/fd/%d", os.Getpid(), file.Fd())
		}
		namespaces = append(namespaces, ns)
	}
	linux.Namespaces = namespaces
	return release, nil
}

// openNamespace opens the namespace that the host names; own tells that the
// file is the caller's to close.
func (r *Runtime) openNamespace(ctx context.Context, ns specs.LinuxNamespace) (file *os.File, own bool, err error) {
	name, joinable := namespaceFiles()[ns.Type]
	if !joinable {
		return nil, false, fmt.Errorf("%w: it cannot be joined in a guest", ErrInvalid)
	}
	if ns.Path == protocol.SandboxNamespace && (ns.Type == specs.IPCNamespace || ns.Type == specs.UTSNamespace) {
		file, err = r.pod.get(ns.Type)
		return file, false, err
	}
	id, ok := protocol.NamespaceContainer(ns.Path)
	if !ok {
		return nil, false, fmt.Errorf("%w: it is neither the pod's nor a container's", ErrInvalid)
	}
	c, err := r.find(id)
	if err != nil {
		return nil, false, err
	}
	if ns.Type == specs.IPCNamespace || ns.Type == specs.UTSNamespace {
		asleep, err := c.whileAsleep(func(*sleep) error { // then they are the pod's
			file, err = r.pod.get(ns.Type)
			return err
		})
		if asleep {
			return file, false, err
		}
	}
	if err := r.wake(ctx, c); err != nil {
		return nil, false, err
	}
	if ns.Type == specs.UserNamespace && !hasNamespace(c.spec.Linux, specs.UserNamespace) {
		return nil, false, fmt.Errorf("%w: container %q has none of its own", ErrInvalid, id)
	}
	pid, err := c.init.lp.Pid()
	if err == nil {
		file, err = os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	}
	// The file is of that process unless it has ended meanwhile, and somebody
	// else has its pid.
	if status, statusErr := c.lc.Status(); statusErr != nil || status == libcontainer.Stopped {
		if file != nil {
			file.Close()
		}
		return nil, false, fmt.Errorf("container %q: %w", id, cmp.Or(statusErr, ErrNotRunning))
	}
	if err != nil {
		return nil, false, err
	}
	return file, true, nil
}

// adoptMappings gives a container that joins the user namespace of another one
// that one's mappings, unless it has its own already, which libcontainer then
// compares.
func (r *Runtime) adoptMappings(linux *specs.Linux) error {
	for _, ns := range linux.Namespaces {
		id, ok := protocol.NamespaceContainer(ns.Path)
		if ns.Type != specs.UserNamespace || !ok || len(linux.UIDMappings)+len(linux.GIDMappings) > 0 {
			continue
		}
		c, err := r.find(id)
		if err != nil {
			return fmt.Errorf("linux.namespaces: %s namespace %q: %w", ns.Type, ns.Path, err)
		}
		linux.UIDMappings, linux.GIDMappings = c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings
	}
	return nil
}

// onThread calls f on a thread of its own, which ends afterwards with what f
// has changed of it. It is never the process's first thread: that one stands
// for the process in /proc/PID.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Never unlocked: the thread ends with the goroutine.
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread() // Held until another thread has done it.
			result <- onThread(f)
			return
		}
		result <- f()
	}()
	return <-result
}
