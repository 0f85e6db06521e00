package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/bundle"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/lifecycle"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/shim/bootstrap"
	"kata-runtime/virtcontainers/shim/events"
	"kata-runtime/virtcontainers/shim/rootfs"
	"kata-runtime/virtcontainers/shim/stdio"
)

// Create implements the task API: it makes a container, and with the first one
// the pod.
func (s *service) Create(ctx context.Context, request *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if request.GetCheckpoint() != "" || request.GetParentCheckpoint() != "" {
		return nil, errNoRestore
	}
	if err := oci.ValidateID(request.GetID()); err != nil {
		return nil, invalid(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := s.newTask(request, cancel)
	if err := s.add(t); err != nil {
		return nil, err
	}
	defer close(t.settled)
	if err := s.create(ctx, t); err != nil {
		s.drop(t)
		return nil, err
	}
	t.publish(events.TopicCreate, &eventsapi.TaskCreate{
		ContainerID: t.id, Bundle: request.GetBundle(), Rootfs: request.GetRootfs(), Pid: t.pid(),
		IO: &eventsapi.TaskIO{
			Stdin: request.GetStdin(), Stdout: request.GetStdout(), Stderr: request.GetStderr(), Terminal: request.GetTerminal(),
		},
	})
	s.mu.Lock()
	t.created = true
	s.mu.Unlock()
	s.background.Go(t.watch)
	if t.holder != nil {
		s.follow(t.holder, t.id, t.endKilled)
	}
	return &taskapi.CreateTaskResponse{Pid: t.pid()}, nil
}

func (s *service) create(ctx context.Context, t *task) (err error) {
	options, err := bootstrap.DecodeOptions(t.request.GetOptions())
	if err != nil {
		return invalid(err)
	}
	defer func() {
		if err != nil { // whoever else has done so: it can be repeated
			err = errors.Join(err, t.unmount())
		}
	}()
	if err := t.mount(); err != nil { // makes its directory too
		return err
	}
	b, err := bundle.Read(t.request.GetBundle())
	if err != nil {
		return invalid(err)
	}
	defer b.Close()
	b.Spec.Process.Terminal = t.request.GetTerminal()
	first, err := s.enterPod(ctx, t, b, options)
	if err != nil {
		return err
	}
	if err := t.make(ctx, b, first); err != nil {
		if first {
			err = errors.Join(err, s.leavePod(context.WithoutCancel(ctx), t.home))
		}
		return err
	}
	return nil
}

// enterPod prepares the bundle for the pod, and makes that for a container that
// starts one.
func (s *service) enterPod(ctx context.Context, t *task, b *bundle.Bundle, options bootstrap.RuntimeOptions) (first bool, err error) {
	membership, err := oci.PodOf(b.Spec.Annotations, t.id)
	if err != nil {
		return false, invalid(err)
	}
	s.booting.Lock()
	defer s.booting.Unlock()
	h := s.pod()
	if membership.Sandbox != "" {
		if h == nil || h.id != membership.Sandbox {
			return false, fmt.Errorf("join the pod of sandbox %q, as annotation %s says: %w",
				membership.Sandbox, membership.Annotation, virtcontainers.ErrNotFound)
		}
		t.home = h
		h.sandboxed.complete(b.Spec)
		err := t.prepare(b, bundle.Options{
			ID: t.id, Pod: h, HostNetwork: hostNetwork(h.config), GuestRoot: t.guestRoot(), Rlimits: s.options.Rlimits,
		})
		if err != nil {
			return false, err
		}
		return false, t.checkArchitecture(b)
	}
	if h != nil {
		return false, fmt.Errorf("this shim has the pod %q: %q would be another: %w", h.id, t.id, virtcontainers.ErrExists)
	}
	settings, err := LoadConfig(ctx, options)
	if err != nil {
		return false, err
	}
	if settings, err = settings.ForPod(b.Spec.Annotations); err != nil {
		return false, invalid(err)
	}
	err = t.prepare(b, bundle.Options{
		ID: t.id, Sandbox: membership.Declared, HostNetwork: hostNetwork(settings), GuestRoot: t.guestRoot(), Rlimits: s.options.Rlimits,
	})
	if err != nil {
		return false, err
	}
	if settings, err = forArchitecture(settings, b.Architecture); err != nil {
		return false, err
	}
	p, err := planBundle(b, settings, options.SystemdCgroup)
	if err != nil {
		return false, err
	}
	if h, err = s.newHome(ctx, p, false); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.home, t.home = h, h
	s.mu.Unlock()
	s.background.Go(func() { //nolint:contextcheck // the pod outlives the call
		<-h.pod.Done()
		_ = s.leavePod(context.Background(), h) // close has logged it
	})
	return true, nil
}

// prepare prepares the bundle. What is wrong with it is the caller's; so is what a
// container in a VM cannot have: from a Create that is "not implemented" containerd
// concludes that the shim is of an older version, and calls it again.
func (t *task) prepare(b *bundle.Bundle, options bundle.Options) error {
	seen := false
	err := t.seeing(func() error {
		seen = true
		return b.Prepare(options)
	})
	if err != nil && seen {
		return invalid(err)
	}
	return err
}

// checkArchitecture refuses a container that the pod's machine cannot run. A program that
// does nothing runs anywhere.
func (t *task) checkArchitecture(b *bundle.Bundle) error {
	wrong := t.home.config.Hypervisor.CheckArchitecture(b.Architecture, b.ArchitectureBy)
	if wrong == nil {
		return nil
	}
	return t.seeing(func() error {
		if b.Pauses() {
			return nil
		}
		return invalid(wrong)
	})
}

// leavePod ends the pod: another may follow.
func (s *service) leavePod(ctx context.Context, h *home) error {
	h.pod.End()
	err := h.close(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.home == h {
		s.home = nil
	}
	return err
}

func hostNetwork(settings *config.Config) bool {
	return settings.Runtime.HostNetwork != config.HostNetworkRefuse
}

// LoadConfig reads the configuration, which containerd's options may name or be, and
// finds the guest's kernel and image.
func LoadConfig(ctx context.Context, options bootstrap.RuntimeOptions) (settings *config.Config, err error) {
	if options.Invalid != "" {
		return nil, invalid(errors.New(options.Invalid))
	}
	if settings, err = options.Configuration(ctx); err != nil {
		return nil, invalid(err)
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's own path: %w", err)
	}
	if err := settings.ResolveAssets(executable); err != nil {
		return nil, err
	}
	return settings, nil
}

// forArchitecture returns the configuration for a pod of an architecture.
func forArchitecture(settings *config.Config, name string) (*config.Config, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's own path: %w", err)
	}
	if settings, err = settings.ForArchitecture(executable, name); err != nil {
		return nil, invalid(err)
	}
	return settings, nil
}

// make lets the pod create the container.
func (t *task) make(ctx context.Context, b *bundle.Bundle, first bool) (err error) {
	log := t.service.options.Log.With("container", t.id)
	for _, field := range b.Guest.Dropped {
		log.Debug("field of the spec does not reach the guest", "field", field)
	}
	for _, note := range b.Guest.Notes {
		log.Debug(note)
	}
	for _, warning := range b.Guest.Warnings {
		log.Warn(warning)
	}
	if t.container, err = t.home.pod.Reserve(ctx, t.id, t); err != nil {
		return err
	}
	if err = t.hold(ctx, b); err != nil {
		_, removeErr := t.home.pod.Remove(context.WithoutCancel(ctx), t.id, true)
		return errors.Join(err, removeErr)
	}
	t.hooks = t.newHooks(b)
	request, err := t.podRequest(ctx, b, first)
	if err == nil {
		err = b.HostPaths(t.container.Create(ctx, request))
	} else if _, removeErr := t.home.pod.Remove(context.WithoutCancel(ctx), t.id, true); removeErr != nil {
		err = errors.Join(err, removeErr)
	}
	if err != nil {
		if t.io != nil { // the pod has closed it, or has not come to it
			t.io.Close(virtcontainers.Exit{Code: killedExit})
			t.io.Release()
		}
		t.hooks.Poststop(context.WithoutCancel(ctx))
	}
	return err
}

// hold starts the container's own holder, if it needs one.
func (t *task) hold(ctx context.Context, b *bundle.Bundle) (err error) {
	if t.id == t.home.id || !holder.Needed(b.Spec.Linux.Namespaces) {
		return nil
	}
	t.holder, err = t.service.startHolder(ctx, holder.Options{ID: t.id, Hostname: b.Spec.Hostname, Namespaces: b.Namespaces()})
	if err != nil {
		return err
	}
	t.home.addMember(namespace.Member{ID: t.id, PID: t.holder.PID(), Users: namespace.UsersPath(b.Spec)})
	return nil
}

// newHooks are the container's, which run in this process's mount namespace.
func (t *task) newHooks(b *bundle.Bundle) *lifecycle.Hooks {
	h := &lifecycle.Hooks{
		ID: t.id, Config: b.Spec.Hooks, Version: b.Spec.Version, Bundle: b.Dir, Rootfs: b.Rootfs, PID: int(t.pid()),
		Log: t.service.options.Log,
	}
	h.State = h.OCIState(b.Spec.Annotations)
	return h
}

func (t *task) podRequest(ctx context.Context, b *bundle.Bundle, first bool) (_ pod.Request, err error) {
	if err := t.hooks.Create(ctx, lifecycle.OwnHostname(b.Spec)); err != nil {
		return pod.Request{}, &virtcontainers.StageError{Stage: virtcontainers.StageCreateContainer, Err: err}
	}
	guest, _, err := b.Encode()
	if err != nil {
		return pod.Request{}, err
	}
	state, err := json.Marshal(specs.State{Version: b.Spec.Version, ID: t.id, Bundle: b.Dir, Annotations: b.Spec.Annotations})
	if err != nil {
		return pod.Request{}, fmt.Errorf("encode the state for hooks: %w", err)
	}
	t.io, err = stdio.Open(ctx, stdio.Config{
		ID: t.id, Namespace: t.service.options.Namespace, Terminal: t.request.GetTerminal(),
		Stdin: t.request.GetStdin(), Stdout: t.request.GetStdout(), Stderr: t.request.GetStderr(), Log: t.service.options.Log,
	})
	if err != nil {
		return pod.Request{}, err
	}
	var joined *network.Namespace
	var root *virtcontainers.Root
	defer func() {
		if err != nil && joined != nil {
			err = errors.Join(err, joined.Close())
		}
		if err != nil {
			root.Close()
		}
	}()
	if first {
		if joined, err = t.home.network(b.TakeNetwork()); err != nil {
			return pod.Request{}, err
		}
	}
	if root, err = t.openDisks(b.ShareName); err != nil {
		return pod.Request{}, err
	}
	var trees *bundle.Trees
	var pauses bool
	err = t.seeing(func() (err error) {
		trees, err = b.OpenTrees()
		pauses = b.Pauses()
		return err
	})
	if err != nil {
		return pod.Request{}, err
	}
	trees.CloseHosts()
	return pod.Request{
		Options: virtcontainers.ContainerOptions{
			Spec: guest, State: state, ShareName: b.ShareName, Mounts: trees.Share, IO: t.io.IO(),
			Root: root, Storages: storages(b.Guest), Devices: blocks(b.Guest), Pause: pauses,
		},
		Network: joined, ResolvConf: b.ResolvConf(), Attachment: t.io,
	}, nil
}

// guestRoot tells where the guest mounts the root file system; nil: it does not.
func (t *task) guestRoot() func(string) string {
	if t.disks == nil {
		return nil
	}
	return rootfs.Root
}

// openDisks opens those of the root file system, if the guest is to have it so.
func (t *task) openDisks(shareName string) (*virtcontainers.Root, error) {
	if t.disks == nil {
		return nil, nil //nolint:nilnil // it is in the share
	}
	images, err := t.disks.Open(t.service.options.HostMounts)
	if err != nil {
		return nil, ofSnapshot(err)
	}
	return &virtcontainers.Root{
		Images:   images,
		Storages: func(serials []string) []*protocol.Storage { return t.disks.Storages(shareName, serials) },
	}, nil
}

// network is the namespace with which the machine is connected: the one that the
// pod was given, or, without, the one that its holder is in.
func (h *home) network(given *network.Namespace) (*network.Namespace, error) {
	switch {
	case !h.networked && given != nil:
		return nil, given.Close()
	case !h.networked || given != nil:
		return given, nil
	}
	joined, err := network.OpenNamespace("/proc/" + strconv.Itoa(h.holder.PID()) + "/ns/net")
	if err != nil {
		return nil, &virtcontainers.StageError{Stage: virtcontainers.StageNetwork, Err: err}
	}
	return joined, nil
}

// storages are the file systems that the guest is to mount.
func storages(guest *oci.GuestSpec) []*protocol.Storage {
	var list []*protocol.Storage
	for _, volume := range guest.Memory {
		list = append(list, &protocol.Storage{
			Driver: "tmpfs", MountPoint: volume.MountPoint, Options: volume.Options,
			Shared: true, Keep: volume.Keep, CopyFrom: volume.GuestSource,
		})
	}
	for _, d := range guest.MemoryDirectories {
		list = append(list, &protocol.Storage{Driver: "directory", Source: d.Volume, Path: d.Path, MountPoint: d.MountPoint})
	}
	return list
}

func blocks(guest *oci.GuestSpec) []device.Block {
	list := make([]device.Block, len(guest.BlockDevices))
	for i, d := range guest.BlockDevices {
		list[i] = device.Block{Major: d.Major, Minor: d.Minor, ReadOnly: d.ReadOnly}
	}
	return list
}
