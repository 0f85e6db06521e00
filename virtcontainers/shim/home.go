package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/bundle"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/loopback"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/remains"
	"kata-runtime/virtcontainers/sizing"
	"kata-runtime/virtcontainers/store"
)

// home is the pod with what the shim keeps of it on the host: its entry in the
// state directory, by which another process can clean up, its control group, and
// the process that holds its namespaces.
type home struct {
	id      string
	pod     *pod.Pod
	sandbox *virtcontainers.Sandbox
	holder  Holder
	config  *config.Config
	// networked: the machine is connected with the holder's network namespace.
	networked bool
	log       *slog.Logger

	// release undoes what making it has done, the last first.
	release []func(context.Context) error

	sandboxMember namespace.Member
	membersMu     sync.Mutex         // guards members
	members       []namespace.Member // with holders of their own

	closing sync.Once
	closed  chan struct{} // when nothing is left
	err     error         // written before closed is closed
}

// newHome makes the pod of a container that starts one.
func (s *service) newHome(ctx context.Context, b *bundle.Bundle, settings *config.Config, systemd bool) (_ *home, err error) {
	h := &home{id: s.options.ID, config: settings, log: s.options.Log, closed: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.undo(context.WithoutCancel(ctx)))
		}
	}()
	entry, err := s.reserve(ctx, b)
	if err != nil {
		return nil, err
	}
	h.deferred(func(context.Context) error { return entry.Remove() })
	group, err := h.enterGroup(entry, b, systemd)
	if err != nil {
		return nil, err
	}
	h.holder, err = s.options.StartHolder(ctx, holder.Options{ID: h.id, Hostname: b.Spec.Hostname, Namespaces: b.Spec.Linux.Namespaces})
	if err != nil {
		return nil, err
	}
	h.deferred(func(context.Context) error {
		h.holder.Stop()
		return nil
	})
	h.sandboxMember = namespace.Member{ID: h.id, PID: h.holder.PID(), Users: namespace.UsersPath(b.Spec)}
	if err := h.recordHolder(entry); err != nil {
		return nil, err
	}
	services, err := loopback.ParseServices(settings.Runtime.LoopbackPorts)
	if err != nil {
		return nil, fmt.Errorf("loopback_ports: %w", err)
	}
	h.sandbox, _, err = s.options.NewSandbox(ctx, factory.Spec{
		ID: h.id, Dir: entry.Dir(), ShareDir: entry.Path("share"), Hostname: b.Hostname, Group: group,
		Demand: sizing.Of(b.Guest.Spec.Linux.Resources), SandboxDemand: sizing.OfSandbox(b.Spec.Annotations),
		Interfaces: b.Interfaces, HostNetwork: b.HostNetwork, Config: settings, Log: s.options.Log,
	})
	if err != nil {
		return nil, err
	}
	kind := networkKind(b, settings)
	h.networked = kind != pod.NetworkNone
	h.pod = pod.New(pod.Options{Sandbox: h.sandbox, Network: kind, Loopback: services, Log: s.options.Log})
	h.deferred(func(ctx context.Context) error {
		err := h.pod.Stop(ctx)
		h.pod.Wait()
		return err
	})
	return h, nil
}

func networkKind(b *bundle.Bundle, settings *config.Config) pod.Network {
	switch {
	case b.HostNetwork:
		return pod.NetworkHost
	case settings.Runtime.NetworkModel == config.NetworkNone:
		return pod.NetworkNone
	default:
		return pod.NetworkOwn
	}
}

// deferred notes what undo is to do.
func (h *home) deferred(undo func(context.Context) error) { h.release = append(h.release, undo) }

func (h *home) undo(ctx context.Context) error {
	var errs []error
	for i := len(h.release) - 1; i >= 0; i-- {
		errs = append(errs, h.release[i](ctx))
	}
	h.release = nil
	return errors.Join(errs...)
}

// close ends the pod and releases everything. Idempotent: later calls wait.
func (h *home) close(ctx context.Context) error {
	h.closing.Do(func() {
		h.err = h.undo(ctx)
		if h.err != nil {
			h.log.Error("release the pod", "error", h.err)
		}
		close(h.closed)
	})
	<-h.closed
	return h.err
}

// reserve writes down whose the pod is, before there is anything of it.
func (s *service) reserve(ctx context.Context, b *bundle.Bundle) (*store.Entry, error) {
	states, err := store.Open(s.options.Root)
	if err != nil {
		return nil, err
	}
	// What a shim that was killed has left, and delete did not remove in time.
	if err := remains.Clear(ctx, states, s.options.ID); err != nil {
		return nil, err
	}
	entry, err := states.Reserve(s.options.ID) //nolint:contextcheck // its wait is bounded by itself
	if err != nil {
		return nil, err
	}
	err = entry.ClaimPod(s.options.ID)
	if err == nil {
		err = entry.Update(func(state *store.State) error {
			state.OCIVersion, state.Bundle, state.Rootfs = b.Spec.Version, b.Dir, b.Rootfs
			state.Annotations = b.Spec.Annotations
			return nil
		})
	}
	if err == nil {
		var config []byte
		if _, config, err = b.Encode(); err == nil {
			err = entry.SaveConfig(config)
		}
	}
	if err != nil {
		return nil, errors.Join(err, entry.Remove())
	}
	return entry, nil
}

// enterGroup moves this process into the pod's control group, which is recorded
// first.
func (h *home) enterGroup(entry *store.Entry, b *bundle.Bundle, systemd bool) (*cgroup.Group, error) {
	record, err := cgroup.Resolve(cgroup.Options{ID: h.id, Path: b.Spec.Linux.CgroupsPath, Systemd: systemd})
	if err != nil || record == nil {
		return nil, err
	}
	leave, err := entry.EnterCgroup(record)
	h.deferred(leave)
	if err != nil {
		return nil, err
	}
	return record.Open()
}

func (h *home) recordHolder(entry *store.Entry) error {
	start, err := store.StartTime(h.holder.PID())
	if err != nil {
		return err
	}
	return entry.Update(func(state *store.State) error {
		state.StandInPID, state.StandInStartTime = h.holder.PID(), start
		return nil
	})
}

// ID implements bundle.Pod.
func (h *home) ID() string { return h.id }

// Owner implements bundle.Pod: the namespaces that others find are the holders'.
func (h *home) Owner(joined specs.LinuxNamespace) (string, error) {
	h.membersMu.Lock()
	members := append([]namespace.Member{h.sandboxMember}, h.members...)
	h.membersMu.Unlock()
	return namespace.Owner(joined, slices.Values(members))
}

func (h *home) addMember(member namespace.Member) {
	h.membersMu.Lock()
	defer h.membersMu.Unlock()
	h.members = append(h.members, member)
}

func (h *home) removeMember(id string) {
	h.membersMu.Lock()
	defer h.membersMu.Unlock()
	h.members = slices.DeleteFunc(h.members, func(m namespace.Member) bool { return m.ID == id })
}

// OnHostNetwork implements bundle.Pod.
func (h *home) OnHostNetwork() (bool, error) {
	return namespace.PathIsHost(specs.NetworkNamespace, namespace.OfProcess(h.holder.PID(), specs.NetworkNamespace))
}
